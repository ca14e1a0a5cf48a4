"""Encrypts private keys at rest: AES-256-GCM under KEY_ENCRYPTION_KEY."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12


class KeyCipher:
    """Authenticates a name with each ciphertext, so that one encrypted key cannot replace another."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def encrypt(self, name: str, plain: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, name.encode())

    def decrypt(self, name: str, sealed: bytes) -> bytes:
        """Raises ValueError when the key is wrong or the ciphertext was changed."""
        try:
            return self._aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], name.encode())
        except InvalidTag as error:
            raise ValueError(
                f"{name} cannot be decrypted: KEY_ENCRYPTION_KEY is not the key that encrypted it"
            ) from error

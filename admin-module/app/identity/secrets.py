"""Secrets at rest: client secrets as keyed hashes, private keys encrypted.

A client secret has 256 random bits, is shown once and compared in constant time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SECRET_BYTES = 32
MAX_SECRET_CHARS = 256
"""Longer secrets are refused before they are hashed."""
NONCE_BYTES = 12


class HasSecret(Protocol):
    """The hashes to compare with: the present one, and the previous one during its grace period."""

    @property
    def secret_hash(self) -> bytes: ...
    @property
    def previous_secret_hash(self) -> bytes | None: ...
    @property
    def previous_secret_until(self) -> datetime | None: ...


def new_secret(random_bytes: Callable[[int], bytes]) -> str:
    """256 bits as 43 characters that need no quoting in URLs, forms and shells."""
    return base64.urlsafe_b64encode(random_bytes(SECRET_BYTES)).rstrip(b"=").decode()


class SecretHasher:
    """HMAC-SHA256 under SECRET_HASH_KEY. A fast hash is enough: secrets of 256 random bits cannot be
    guessed."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._no_hash = bytes(hashlib.sha256().digest_size)

    def hash(self, secret: str) -> bytes:
        return hmac.digest(self._key, secret.encode("utf-8", "surrogatepass"), "sha256")

    def matches(self, secret: str, owner: HasSecret | None, now: datetime) -> bool:
        """True if `secret` is valid for `owner` at `now`. An unknown owner costs the same time as a known
        one."""
        given = self.hash(secret)
        current = self._no_hash if owner is None else owner.secret_hash
        previous = (owner.previous_secret_hash if owner is not None else None) or self._no_hash
        until = owner.previous_secret_until if owner is not None else None
        is_current = hmac.compare_digest(given, current)
        is_previous = hmac.compare_digest(given, previous)
        in_grace = until is not None and now < until
        return owner is not None and (is_current or (is_previous and in_grace))


class KeyCipher:
    """Encrypts private keys: AES-256-GCM under KEY_ENCRYPTION_KEY. Authenticates a name with each ciphertext,
    so that one encrypted key cannot replace another. With `previous` it also reads what that key encrypted."""

    def __init__(self, key: bytes, previous: bytes | None = None) -> None:
        self._aead = AESGCM(key)
        self._previous = None if previous is None else AESGCM(previous)

    def encrypt(self, name: str, plain: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, name.encode())

    def decrypt(self, name: str, sealed: bytes) -> bytes:
        """Raises ValueError when the key is wrong or the ciphertext was changed."""
        for aead in filter(None, (self._aead, self._previous)):
            try:
                return aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], name.encode())
            except InvalidTag:
                continue
        raise ValueError(f"{name} cannot be decrypted: KEY_ENCRYPTION_KEY is not the key that encrypted it")

    def renew(self, name: str, sealed: bytes) -> bytes | None:
        """The same under the present key; None when it is already. Raises ValueError."""
        try:
            self._aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], name.encode())
        except InvalidTag:
            return self.encrypt(name, self.decrypt(name, sealed))
        return None

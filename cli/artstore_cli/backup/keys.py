"""The folder of keys as one encrypted file, so that a backup does not hold what opens it.

`keys.enc`: MAGIC, 16 bytes of salt, 12 of nonce, then a tar archive under AES-256-GCM; the key is scrypt of the passphrase.
"""

from __future__ import annotations

import io
import os
import secrets
import tarfile
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ..errors import CommandError

MAGIC = b"artstore-keys-1\n"
SALT_BYTES, NONCE_BYTES = 16, 12
LEAST_PASSPHRASE_CHARACTERS = 12


def read_passphrase(path: Path) -> bytes:
    """The first line of the file. Raises CommandError."""
    try:
        passphrase = path.read_text().splitlines()[0].strip()
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise CommandError(f"{path} holds no passphrase: {error}") from None
    if len(passphrase) < LEAST_PASSPHRASE_CHARACTERS:
        raise CommandError(f"the passphrase in {path} has less than {LEAST_PASSPHRASE_CHARACTERS} characters")
    return passphrase.encode()


def seal(folder: Path, target: Path, passphrase: bytes) -> None:
    """Write the files of `folder` to `target`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted(folder.iterdir()):
            if path.is_file():
                archive.add(path, path.name)
    salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_BYTES)
    sealed = AESGCM(_key(passphrase, salt)).encrypt(nonce, packed.getvalue(), MAGIC)
    with target.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(MAGIC + salt + nonce + sealed)


def unseal(source: Path, folder: Path, passphrase: bytes) -> None:
    """Create `folder` with the files of `source`. Raises CommandError for a wrong passphrase or a changed file."""
    content = source.read_bytes()
    salt, rest = content[len(MAGIC) :][:SALT_BYTES], content[len(MAGIC) + SALT_BYTES :]
    nonce, sealed = rest[:NONCE_BYTES], rest[NONCE_BYTES:]
    try:
        if not content.startswith(MAGIC):
            raise InvalidTag
        packed = AESGCM(_key(passphrase, salt)).decrypt(nonce, sealed, MAGIC)
    except (InvalidTag, ValueError):
        raise CommandError(f"{source} cannot be opened with this passphrase, or it was changed") from None
    folder.mkdir(mode=0o700)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    for path in folder.iterdir():
        path.chmod(0o600)


def _key(passphrase: bytes, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=1 << 15, r=8, p=1).derive(passphrase)

"""Checks digests that a client states for an upload.

The digest of a raw body is that of the file, which the element checks before the file exists. In a form's own headers it may be
that of the whole body or of the file, because client libraries do not distinguish them: either match is accepted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Protocol

from artstore.errors import DigestMismatch
from artstore.http.digests import Digest


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


_HASHES: dict[str, Callable[[], _Hash]] = {
    "sha-256": hashlib.sha256,
    "sha-512": hashlib.sha512,
    "md5": lambda: hashlib.md5(usedforsecurity=False),
}
_AT_ELEMENT = frozenset({"sha-256", "md5"})
"""Checked by the element, which hashes the file anyway."""


class DigestCheck:
    """Hashes only for digests of the file that the element does not check, and for those in a form's own headers."""

    def __init__(self, of_either: tuple[Digest, ...] = ()) -> None:
        self._of_file: tuple[Digest, ...] = ()
        self._of_either = of_either
        self._file = _start(of_either)
        self._body = _start(of_either)

    def expect(self, digests: tuple[Digest, ...]) -> None:
        """The digests of the file. Must be called before its first byte."""
        self._of_file = tuple(digest for digest in digests if digest.algorithm not in _AT_ELEMENT)
        self._file = _start(self._of_file + self._of_either)

    def add_file(self, piece: bytes) -> None:
        for running in self._file.values():
            running.update(piece)

    def add_body(self, chunk: bytes) -> None:
        for running in self._body.values():
            running.update(chunk)

    def finish(self) -> None:
        """Raises DigestMismatch."""
        for digest in self._of_file:
            if self._file[digest.algorithm].digest() != digest.value:
                raise DigestMismatch(f"the file's {digest.algorithm} does not match")
        for digest in self._of_either:
            file, body = self._file[digest.algorithm].digest(), self._body[digest.algorithm].digest()
            if digest.value not in (file, body):
                raise DigestMismatch(f"{digest.algorithm} matches neither the file nor the whole body")


def _start(digests: Iterable[Digest]) -> dict[str, _Hash]:
    return {digest.algorithm: _HASHES[digest.algorithm]() for digest in digests}

"""Digests in request headers (RFC 9530 Content-Digest and Repr-Digest, RFC 1864 Content-MD5) and their check.

The digest of a raw body is that of the file, which the element checks before the file exists. In a form's own headers it may be
that of the whole body or of the file, because client libraries do not distinguish them: either match is accepted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from artstore.errors import DigestMismatch, Malformed

HEADERS = ("content-digest", "repr-digest", "content-md5")
_MEMBER = re.compile(r"\s*([a-z*][a-z0-9_.*-]*)\s*=\s*:([A-Za-z0-9+/=]*):\s*(?:;[^,]*)?")
_ENCODED_MAX = 2048


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


_HASHES: dict[str, Callable[[], _Hash]] = {
    "sha-256": hashlib.sha256,
    "sha-512": hashlib.sha512,
    "md5": lambda: hashlib.md5(usedforsecurity=False),
}
_SIZES = {"sha-256": 32, "sha-512": 64, "md5": 16}
_AT_ELEMENT = frozenset({"sha-256", "md5"})
"""Checked by the element, which hashes the file anyway."""


@dataclass(frozen=True, slots=True)
class Digest:
    algorithm: str
    value: bytes


def digests_in(headers: Mapping[str, str]) -> tuple[Digest, ...]:
    """`headers` have lower-case names. Raises Malformed, also for a header without a known algorithm, because a client that
    states a digest relies on its check."""
    found: dict[Digest, None] = {}
    for name in HEADERS:
        if (value := headers.get(name)) is not None:
            found.update(dict.fromkeys(_md5(value) if name == "content-md5" else _members(name, value)))
    return tuple(found)


def digest_headers(digests: Iterable[Digest]) -> dict[str, str]:
    """Headers that have the element check the digests it supports."""
    headers: dict[str, str] = {}
    for digest in digests:
        encoded = base64.b64encode(digest.value).decode()
        if digest.algorithm == "sha-256":
            headers["repr-digest"] = f"sha-256=:{encoded}:"
        elif digest.algorithm == "md5":
            headers["content-md5"] = encoded
    return headers


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


def _md5(value: str) -> list[Digest]:
    return [Digest("md5", _decoded("content-md5", "md5", value.strip()))]


def _members(name: str, value: str) -> list[Digest]:
    known: list[Digest] = []
    if len(value) > _ENCODED_MAX:
        raise Malformed(f"{name} is too long")
    for member in value.split(","):
        match = _MEMBER.fullmatch(member)
        if match is None:
            raise Malformed(f"{name} must be of the form sha-256=:<base64>:")
        algorithm, encoded = match.groups()
        if algorithm in _HASHES:
            known.append(Digest(algorithm, _decoded(name, algorithm, encoded)))
    if not known:
        raise Malformed(f"{name} must name one of {', '.join(_HASHES)}")
    return known


def _decoded(name: str, algorithm: str, encoded: str) -> bytes:
    try:
        value = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed(f"{name} must be base64") from error
    if len(value) != _SIZES[algorithm]:
        raise Malformed(f"{name}: {algorithm} must have {_SIZES[algorithm]} bytes, not {len(value)}")
    return value

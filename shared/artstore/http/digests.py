"""Digests in request headers: RFC 9530 Content-Digest and Repr-Digest, RFC 1864 Content-MD5."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from artstore.errors import Malformed

HEADERS = ("content-digest", "repr-digest", "content-md5")
_MEMBER = re.compile(r"\s*([a-z*][a-z0-9_.*-]*)\s*=\s*:([A-Za-z0-9+/=]*):\s*(?:;[^,]*)?")
_ENCODED_MAX = 2048
SIZES_BYTES = {"sha-256": 32, "sha-512": 64, "md5": 16}
"""The known algorithms."""


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
        if algorithm in SIZES_BYTES:
            known.append(Digest(algorithm, _decoded(name, algorithm, encoded)))
    if not known:
        raise Malformed(f"{name} must name one of {', '.join(SIZES_BYTES)}")
    return known


def _decoded(name: str, algorithm: str, encoded: str) -> bytes:
    try:
        value = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed(f"{name} must be base64") from error
    if len(value) != SIZES_BYTES[algorithm]:
        raise Malformed(f"{name}: {algorithm} must have {SIZES_BYTES[algorithm]} bytes, not {len(value)}")
    return value

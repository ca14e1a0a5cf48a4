"""A request's body as the store takes it: cut off when the sender stalls or is slower than the minimum rate.

uvicorn has no limit of its own here (uvicorn#157).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.requests import Request

from artstore.errors import Malformed, TooSlow

from ..store.body import Body, Expected

RATE_WINDOW_S = 10.0
"""Waiting time over which the minimum rate must be kept."""
_SHA256 = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):")


@dataclass(frozen=True, slots=True)
class Patience:
    """`min_rate_bytes_per_s` counts only the time spent waiting for the sender, not the disk's."""

    idle_timeout_s: float
    min_rate_bytes_per_s: int
    max_file_bytes: int


def body_of(request: Request, patience: Patience) -> Body:
    """Raises TooLarge and Malformed; nothing is read yet, so nothing was taken from a refused sender."""
    return Body(_chunks(request, patience), stated_bytes=_stated(request), max_bytes=patience.max_file_bytes)


def expected_digests(request: Request) -> Expected:
    """Repr-Digest (RFC 9530) by SHA-256 and Content-MD5 (RFC 1864). Raises Malformed."""
    repr_digest = request.headers.get("repr-digest")
    found = _SHA256.search(repr_digest) if repr_digest is not None else None
    return Expected(
        sha256=_decoded(found.group(1), 32) if found is not None else None,
        md5=_decoded(md5, 16) if (md5 := request.headers.get("content-md5")) is not None else None,
    )


async def _chunks(request: Request, patience: Patience) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    waited_s, came_bytes = 0.0, 0
    more = True
    while more:
        began_s = loop.time()
        try:
            async with asyncio.timeout(patience.idle_timeout_s):
                message = await request.receive()
        except TimeoutError as error:
            raise TooSlow(f"nothing of the body came for {patience.idle_timeout_s:g} s") from error
        if message["type"] == "http.disconnect":
            raise Malformed("the body was cut off")
        chunk: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        waited_s, came_bytes = waited_s + loop.time() - began_s, came_bytes + len(chunk)
        if waited_s >= RATE_WINDOW_S:
            if came_bytes < patience.min_rate_bytes_per_s * waited_s:
                raise TooSlow(f"the body comes slower than {patience.min_rate_bytes_per_s} bytes/s")
            waited_s, came_bytes = 0.0, 0
        yield chunk


def _stated(request: Request) -> int | None:
    stated = request.headers.get("content-length")
    if stated is None:
        return None if "transfer-encoding" in request.headers else 0
    if not (stated.isascii() and stated.isdigit() and len(stated) <= 19):
        raise Malformed("Content-Length is no number")
    return int(stated)


def _decoded(encoded: str, size_bytes: int) -> bytes:
    try:
        value = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("a digest is not base64") from error
    if len(value) != size_bytes:
        raise Malformed("a digest has the wrong length")
    return value

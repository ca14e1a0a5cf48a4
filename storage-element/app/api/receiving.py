"""A request's body for the store, ended when the sender stalls or is slower than the minimum rate."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.requests import Request

from artstore.auth.access import principal_of
from artstore.contracts.tokens import Role
from artstore.errors import Malformed
from artstore.http.body import BodyRateLimits, next_chunk, stated_length

from ..store.body import Body, Expected

_SHA256 = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):")


@dataclass(frozen=True, slots=True)
class BodyLimits:
    max_file_bytes: int
    rate: BodyRateLimits


def body_of(request: Request, limits: BodyLimits) -> Body:
    """Raises TooLarge, Malformed. Nothing has been read yet, so a refused sender has sent nothing."""
    rate = limits.rate.relayed() if principal_of(request).role is Role.SERVICE else limits.rate
    return Body(_chunks(request, rate), stated_bytes=stated_length(request), max_bytes=limits.max_file_bytes)


def expected_digests(request: Request) -> Expected:
    """From Repr-Digest with SHA-256 (RFC 9530) and Content-MD5 (RFC 1864). Raises Malformed."""
    repr_digest = request.headers.get("repr-digest")
    found = _SHA256.search(repr_digest) if repr_digest is not None else None
    if repr_digest is not None and found is None:
        raise Malformed("Repr-Digest must be of the form sha-256=:<base64>:")
    return Expected(
        sha256=_decoded(found.group(1), 32) if found is not None else None,
        md5=_decoded(md5, 16) if (md5 := request.headers.get("content-md5")) is not None else None,
    )


async def _chunks(request: Request, rate: BodyRateLimits) -> AsyncIterator[bytes]:
    pace, now_s = rate.meter(), asyncio.get_running_loop().time
    more = True
    while more:
        chunk, more = await next_chunk(request.receive, rate, pace, now_s)
        yield chunk


def _decoded(encoded: str, size_bytes: int) -> bytes:
    try:
        value = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("a digest is not base64") from error
    if len(value) != size_bytes:
        raise Malformed("a digest has the wrong length")
    return value

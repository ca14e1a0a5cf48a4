"""A request's body for the store, ended when the sender stalls or is slower than the minimum rate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.requests import Request

from artstore.auth.access import principal_of
from artstore.contracts.tokens import Role
from artstore.errors import Malformed
from artstore.http.body import BodyRateLimits, next_chunk, stated_length
from artstore.http.digests import digests_in

from ..store.body import Body, Expected


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
    stated = digests_in(request.headers)
    by_algorithm = {digest.algorithm: digest.value for digest in stated}
    if "sha-512" in by_algorithm or len(by_algorithm) < len(stated):
        raise Malformed("state one sha-256, one md5 or both: the element checks no other digest")
    return Expected(sha256=by_algorithm.get("sha-256"), md5=by_algorithm.get("md5"))


async def _chunks(request: Request, rate: BodyRateLimits) -> AsyncIterator[bytes]:
    pace, now_s = rate.meter(), asyncio.get_running_loop().time
    more = True
    while more:
        chunk, more = await next_chunk(request.receive, rate, pace, now_s)
        yield chunk

"""A request's body as it arrives: bounded in size, idle time and slowness, and never mistaken for complete when it was cut off.

uvicorn itself waits for a slow body without end (uvicorn#157).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import Message, Receive

from artstore.errors import LengthRequired, Malformed, TooLarge, TooSlow

RELAY_FACTOR = 2
MAX_JSON_BYTES = 1 << 20
"""The body of an endpoint that is not for files."""
JSON_TIMEOUT_S = 30.0
"""All of it."""


class Pace:
    """A minimum rate over the time spent waiting for the other side: a slow element behind us is not its fault.

    The other side begins with `grace_s` of waiting. Each second of waiting takes one, each byte brings 1 / minimum rate of it,
    up to `grace_s` and the time that `spare_bytes` may take: a fast start excuses no more than that. So bytes may come in any
    rhythm, if the rate is kept over `grace_s`.
    """

    __slots__ = ("_credit_s", "_max_credit_s", "_min_rate")

    def __init__(self, min_rate_bytes_per_s: int, grace_s: float, spare_bytes: int = 0) -> None:
        self._min_rate = min_rate_bytes_per_s
        self._credit_s = self._max_credit_s = grace_s
        if min_rate_bytes_per_s:
            self._max_credit_s += spare_bytes / min_rate_bytes_per_s

    def keeps(self, waited_s: float, size_bytes: int) -> bool:
        """Notes `size_bytes` that came, or went, after waiting. False: the rate is below the minimum."""
        if not self._min_rate:
            return True
        self._credit_s = min(self._max_credit_s, self._credit_s - waited_s + size_bytes / self._min_rate)
        return self._credit_s >= 0


@dataclass(frozen=True, slots=True)
class RateLimits:
    """How slow the other side of a body may be. A minimum rate of 0 leaves the idle timeout alone."""

    idle_timeout_s: float
    min_rate_bytes_per_s: int

    def pace(self) -> Pace:
        """For one body that comes in."""
        return Pace(self.min_rate_bytes_per_s, self.idle_timeout_s)

    def relayed(self) -> RateLimits:
        """For a body that another module passes on: it measures its own sender, and answers it first."""
        return RateLimits(RELAY_FACTOR * self.idle_timeout_s, self.min_rate_bytes_per_s)


async def next_chunk(
    receive: Receive, limits: RateLimits, pace: Pace, now_s: Callable[[], float]
) -> tuple[bytes, bool]:
    """The bytes that came, and whether more is to come. Raises Malformed (cut off) and TooSlow."""
    began_s = now_s()
    try:
        async with asyncio.timeout(limits.idle_timeout_s):
            message = await receive()
    except TimeoutError as error:
        raise TooSlow(f"no content was received for {limits.idle_timeout_s:g} s") from error
    if message["type"] == "http.disconnect":
        raise Malformed("the body was cut off")
    chunk: bytes = message.get("body", b"")
    if not pace.keeps(now_s() - began_s, len(chunk)):
        least = limits.min_rate_bytes_per_s
        raise TooSlow(f"the body arrives slower than {least} bytes/s", limit_bytes_per_s=least)
    return chunk, message.get("more_body", False)


def stated_length(request: Request) -> int | None:
    """Content-Length of a request that may have content; None for chunked content. Raises Malformed and LengthRequired: without
    a length the content would be empty, and nothing says that the client means that."""
    stated = request.headers.get("content-length")
    if stated is None:
        if "transfer-encoding" not in request.headers:
            raise LengthRequired("state Content-Length (0 when there is no content) or send the content chunked")
        return None
    if not (stated.isascii() and stated.isdigit() and len(stated) <= 19):
        raise Malformed("Content-Length must be a number")
    return int(stated)


def check_length(received_bytes: int, stated_bytes: int | None) -> None:
    """At the end of content, wherever it is read. The parser promises this; content is acknowledged by it, so it is checked
    apart from the parser. Raises Malformed."""
    if stated_bytes is not None and received_bytes != stated_bytes:
        raise Malformed(f"the body has {received_bytes} bytes, but {stated_bytes} were stated")


def limited_receive(request: Request, max_bytes: int = MAX_JSON_BYTES, *, takes_content: bool = True) -> Receive:
    """The request's `receive`, raising TooSlow after JSON_TIMEOUT_S, TooLarge (at once when the length is stated, else where
    the limit is passed), and Malformed where the length is not the stated one.

    An endpoint that takes content, required or optional, needs a length: raises LengthRequired.
    """
    stated_bytes = stated_length(request) if takes_content or "content-length" in request.headers else None
    if stated_bytes is not None and stated_bytes > max_bytes:
        raise TooLarge(f"the body is larger than the limit of {max_bytes} bytes", limit_bytes=max_bytes)
    seen = 0
    whole_by_s = asyncio.get_running_loop().time() + JSON_TIMEOUT_S

    async def receive() -> Message:
        nonlocal seen
        try:
            async with asyncio.timeout_at(whole_by_s):
                message = await request.receive()
        except TimeoutError as error:
            raise TooSlow(f"the body did not arrive within {JSON_TIMEOUT_S:g} s") from error
        seen += len(message.get("body", b""))
        if seen > max_bytes:
            raise TooLarge(f"the body is larger than the limit of {max_bytes} bytes", limit_bytes=max_bytes)
        if message["type"] == "http.request" and not message.get("more_body", False):
            check_length(seen, stated_bytes)
        return message

    return receive

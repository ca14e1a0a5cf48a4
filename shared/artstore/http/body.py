"""Request bodies: bounded in size, idle time and minimum rate, and never taken for complete when they were
cut off.

uvicorn itself waits for a slow body without limit (uvicorn#157).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from artstore.errors import LengthRequired, Malformed, TooLarge, TooSlow
from artstore.http.request_cycle import RequestCycle

RELAY_FACTOR = 2
MAX_JSON_BYTES = 1 << 20
"""Limit for the body of an endpoint that does not receive files."""
JSON_TIMEOUT_S = 30.0
"""Time for the whole body."""


class RateMeter:
    """Checks a minimum rate over the time spent waiting for the other side, so a slow storage element does
    not count against a client.

    It works as a bucket of seconds that starts with `grace_s`. Each second of waiting takes one, each byte
    adds 1 / minimum rate, up to `grace_s` plus the time that `spare_bytes` may take at the minimum rate.
    """

    __slots__ = ("_credit_s", "_max_credit_s", "_min_rate")

    def __init__(self, min_rate_bytes_per_s: int, grace_s: float, spare_bytes: int = 0) -> None:
        self._min_rate = min_rate_bytes_per_s
        self._credit_s = self._max_credit_s = grace_s
        if min_rate_bytes_per_s:
            self._max_credit_s += spare_bytes / min_rate_bytes_per_s

    def keeps(self, waited_s: float, size_bytes: int) -> bool:
        """Adds a transfer of `size_bytes` after a wait. Returns False if the rate is below the minimum."""
        if not self._min_rate:
            return True
        self._credit_s = min(self._max_credit_s, self._credit_s - waited_s + size_bytes / self._min_rate)
        return self._credit_s >= 0


@dataclass(frozen=True, slots=True)
class BodyRateLimits:
    """How slowly the other side may send or read a body. With a minimum rate of 0 only the idle timeout
    applies."""

    idle_timeout_s: float
    min_rate_bytes_per_s: int

    def meter(self) -> RateMeter:
        """A meter for one body that is being received."""
        return RateMeter(self.min_rate_bytes_per_s, self.idle_timeout_s)

    def relayed(self) -> BodyRateLimits:
        """Limits for a body that another module relays. That module measures its own sender, and must be able
        to answer it first."""
        return BodyRateLimits(RELAY_FACTOR * self.idle_timeout_s, self.min_rate_bytes_per_s)


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """The limits of an upload's body."""

    max_file_bytes: int
    rate: BodyRateLimits


async def next_chunk(
    receive: Receive, limits: BodyRateLimits, meter: RateMeter, now_s: Callable[[], float]
) -> tuple[bytes, bool]:
    """The next bytes, and True if more follow. Raises Malformed (the body was cut off) and TooSlow."""
    began_s = now_s()
    try:
        if _has_come(receive):
            message = await receive()
        else:
            async with asyncio.timeout(limits.idle_timeout_s):
                message = await receive()
    except TimeoutError as error:
        raise TooSlow(f"no content was received for {limits.idle_timeout_s:g} s") from error
    if message["type"] == "http.disconnect":
        raise Malformed("the body was cut off")
    chunk: bytes = message.get("body", b"")
    if not meter.keeps(now_s() - began_s, len(chunk)):
        least = limits.min_rate_bytes_per_s
        raise TooSlow(f"the body arrives slower than {least} bytes/s", limit_bytes_per_s=least)
    return chunk, message.get("more_body", False)


def stated_length(request: Request) -> int | None:
    """Content-Length of a request that may have content; None for chunked content. Raises Malformed, and
    LengthRequired without either header: the content would be empty, which the client may not intend."""
    stated = request.headers.get("content-length")
    if stated is None:
        if "transfer-encoding" not in request.headers:
            raise LengthRequired("state Content-Length (0 when there is no content) or send the content chunked")
        return None
    if not (stated.isascii() and stated.isdigit() and len(stated) <= 19):
        raise Malformed("Content-Length must be a number")
    return int(stated)


def check_length(received_bytes: int, stated_bytes: int | None) -> None:
    """Raises Malformed if the body does not have its stated length. Call it at the end of the body: an
    acknowledgement depends on the length, so it is checked independently of the parser."""
    if stated_bytes is not None and received_bytes != stated_bytes:
        raise Malformed(f"the body has {received_bytes} bytes, but {stated_bytes} were stated")


def limited_receive(request: Request, max_bytes: int = MAX_JSON_BYTES, *, takes_content: bool = True) -> Receive:
    """Wraps the request's `receive`. It raises TooSlow after JSON_TIMEOUT_S, TooLarge (immediately if
    Content-Length is too large, else when the limit is exceeded), and Malformed if the body does not have its
    stated length.

    With `takes_content`, also for optional content, it raises LengthRequired without a length.
    """
    stated_bytes = stated_length(request) if takes_content or "content-length" in request.headers else None
    if stated_bytes is not None and stated_bytes > max_bytes:
        raise TooLarge(f"the body is larger than the limit of {max_bytes} bytes", limit_bytes=max_bytes)
    seen = 0
    deadline_s = asyncio.get_running_loop().time() + JSON_TIMEOUT_S

    async def receive() -> Message:
        nonlocal seen
        try:
            if _has_come(request.receive):
                message = await request.receive()
            else:
                async with asyncio.timeout_at(deadline_s):
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


async def read_body(request: Request, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """The whole body. Raises as `limited_receive`, and ClientDisconnect."""
    receive = limited_receive(request, max_bytes)
    pieces, more = [], True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect()
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(pieces)


def _has_come(receive: Receive) -> bool:
    """`receive` returns without waiting, so it needs no timer."""
    cycle = getattr(receive, "__self__", None)
    return isinstance(cycle, RequestCycle) and cycle.message_event.is_set()

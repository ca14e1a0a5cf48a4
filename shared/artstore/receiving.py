"""A request's body as it arrives, for every module that takes files: bounded in idle time and slowness, never mistaken for whole.

uvicorn itself waits for a slow body without end (uvicorn#157).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.types import Receive

from artstore.errors import LengthRequired, Malformed, TooSlow

RATE_WINDOW_S = 10.0
"""Waiting time over which the minimum rate must be kept."""


class Pace:
    """Counts only the time spent waiting for the sender: a slow element behind us is not the sender's fault."""

    __slots__ = ("_bytes", "_min_rate", "_waited_s")

    def __init__(self, min_rate_bytes_per_s: int) -> None:
        self._min_rate = min_rate_bytes_per_s
        self._waited_s = 0.0
        self._bytes = 0

    def note(self, waited_s: float, size_bytes: int) -> None:
        """Raises TooSlow when a whole window of waiting brought less than the minimum rate."""
        self._waited_s += waited_s
        self._bytes += size_bytes
        if self._waited_s < RATE_WINDOW_S:
            return
        if self._bytes < self._min_rate * self._waited_s:
            raise TooSlow(f"the body comes slower than {self._min_rate} bytes/s", limit_bytes_per_s=self._min_rate)
        self._waited_s, self._bytes = 0.0, 0


async def next_chunk(
    receive: Receive, pace: Pace, idle_timeout_s: float, now_s: Callable[[], float]
) -> tuple[bytes, bool]:
    """What came, and whether more is to come. Raises Malformed (cut off) and TooSlow."""
    began_s = now_s()
    try:
        async with asyncio.timeout(idle_timeout_s):
            message = await receive()
    except TimeoutError as error:
        raise TooSlow(f"nothing of the body came for {idle_timeout_s:g} s") from error
    if message["type"] == "http.disconnect":
        raise Malformed("the body was cut off")
    chunk: bytes = message.get("body", b"")
    pace.note(now_s() - began_s, len(chunk))
    return chunk, message.get("more_body", False)


def stated_length(request: Request) -> int | None:
    """Content-Length of a request that must have content; None for chunked content. Raises Malformed and LengthRequired: without
    a length the content would be empty, and nothing says that the client means that."""
    stated = request.headers.get("content-length")
    if stated is None:
        if "transfer-encoding" not in request.headers:
            raise LengthRequired("state Content-Length (0 for an empty file) or send the content chunked")
        return None
    if not (stated.isascii() and stated.isdigit() and len(stated) <= 19):
        raise Malformed("Content-Length must be a number")
    return int(stated)


def check_length(received_bytes: int, stated_bytes: int | None) -> None:
    """At the end of content, wherever it is read. The parser promises this; content is acknowledged by it, so it is checked
    apart from the parser. Raises Malformed."""
    if stated_bytes is not None and received_bytes != stated_bytes:
        raise Malformed(f"the body has {received_bytes} bytes, {stated_bytes} were stated")

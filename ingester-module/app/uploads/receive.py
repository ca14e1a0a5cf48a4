"""A request's body as it arrives: bounded in size, idle time and slowness, and never mistaken for whole when it was cut off.

uvicorn itself waits for a slow body without end (uvicorn#157).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.requests import Request

from artstore.clock import Clock
from artstore.errors import Malformed, TooLarge, TooSlow, UnsupportedMediaType

RATE_WINDOW_S = 10.0
"""Waiting time over which the minimum rate must be kept."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    max_file_bytes: int
    idle_timeout_s: float
    min_rate_bytes_per_s: int


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


class Received:
    """The body's bytes, chunk by chunk. Nothing is read, and no 100-continue sent, before the first `next`."""

    def __init__(self, request: Request, limits: BodyLimits, *, max_bytes: int, clock: Clock) -> None:
        """Raises TooLarge when the stated length is over `max_bytes`, UnsupportedMediaType for an encoded body."""
        self.stated_bytes = stated_length(request)
        self.seen_bytes = 0
        self._receive = request.receive
        self._idle_timeout_s = limits.idle_timeout_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._pace = Pace(limits.min_rate_bytes_per_s)
        self._ended = False
        if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise UnsupportedMediaType("a body with Content-Encoding is not taken: send the file's own bytes")
        if self.stated_bytes is not None and self.stated_bytes > max_bytes:
            raise too_large(max_bytes)

    async def next(self) -> bytes:
        """The next chunk, never empty; b"" at the end. Raises Malformed (cut off), TooSlow, TooLarge."""
        while not self._ended:
            began_s = self._clock.monotonic_s()
            try:
                async with asyncio.timeout(self._idle_timeout_s):
                    message = await self._receive()
            except TimeoutError as error:
                raise TooSlow(f"no byte of the body came for {self._idle_timeout_s:g} s") from error
            if message["type"] == "http.disconnect":
                raise Malformed(f"the body was cut off after {self.seen_bytes} bytes")
            chunk: bytes = message.get("body", b"")
            self._ended = not message.get("more_body", False)
            self.seen_bytes += len(chunk)
            if self.seen_bytes > self._max_bytes:
                raise too_large(self._max_bytes)
            if chunk:
                self._pace.note(self._clock.monotonic_s() - began_s, len(chunk))
                return chunk
        return b""


def stated_length(request: Request) -> int | None:
    """Content-Length, None for a chunked body. Raises Malformed."""
    stated = request.headers.get("content-length")
    if stated is None:
        return None if "transfer-encoding" in request.headers else 0
    if not (stated.isascii() and stated.isdigit() and len(stated) <= 19):
        raise Malformed("Content-Length is no number")
    return int(stated)


def too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"a file may have {max_bytes} bytes", limit_bytes=max_bytes)

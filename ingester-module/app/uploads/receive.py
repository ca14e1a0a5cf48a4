"""A request's body as it arrives: bounded in size, idle time and slowness, and never mistaken for whole when it was cut off.

uvicorn itself waits for a slow body without end (uvicorn#157).
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from artstore.clock import Clock
from artstore.errors import TooLarge
from artstore.http.body import RateLimits, check_length, next_chunk, stated_length


@dataclass(frozen=True, slots=True)
class BodyLimits:
    max_file_bytes: int
    rate: RateLimits


class Received:
    """The body's bytes, chunk by chunk. Nothing is read, and no 100-continue sent, before the first `next`."""

    def __init__(self, request: Request, limits: BodyLimits, *, max_bytes: int, clock: Clock) -> None:
        """Raises TooLarge when the stated length is over `max_bytes`, LengthRequired when none is stated."""
        self.stated_bytes = stated_length(request)
        self.seen_bytes = 0
        self._receive = request.receive
        self._rate = limits.rate
        self._max_bytes = max_bytes
        self._clock = clock
        self._pace = limits.rate.pace()
        self._ended = False
        if self.stated_bytes is not None and self.stated_bytes > max_bytes:
            raise too_large(max_bytes)

    async def next(self) -> bytes:
        """The next chunk, never empty; b"" at the end. Raises Malformed (cut off), TooSlow, TooLarge."""
        while not self._ended:
            chunk, more = await next_chunk(self._receive, self._rate, self._pace, self._clock.monotonic_s)
            self._ended = not more
            self.seen_bytes += len(chunk)
            if self.seen_bytes > self._max_bytes:
                raise too_large(self._max_bytes)
            if self._ended:
                check_length(self.seen_bytes, self.stated_bytes)
            if chunk:
                return chunk
        return b""


def too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"a file may have {max_bytes} bytes", limit_bytes=max_bytes)

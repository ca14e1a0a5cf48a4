"""Reads a request's body within limits on size, idle time and rate, and detects a truncated one."""

from __future__ import annotations

from starlette.requests import Request

from artstore.clock import Clock
from artstore.errors import TooLarge
from artstore.http.body import BodyLimits, check_length, next_chunk, stated_length


class BodyReader:
    """Reads nothing, and so sends no 100-continue, before the first `next_chunk`."""

    def __init__(self, request: Request, limits: BodyLimits, *, max_bytes: int, clock: Clock) -> None:
        """Raises TooLarge when Content-Length exceeds `max_bytes`, LengthRequired without a length."""
        self.length_bytes = stated_length(request)
        self.read_bytes = 0
        self._receive = request.receive
        self._rate = limits.rate
        self._max_bytes = max_bytes
        self._clock = clock
        self._pace = limits.rate.meter()
        self._ended = False
        if self.length_bytes is not None and self.length_bytes > max_bytes:
            raise too_large(max_bytes)

    async def next_chunk(self) -> bytes:
        """Never empty before the end, then b"". Raises Malformed (truncated), TooSlow, TooLarge."""
        while not self._ended:
            chunk, more = await next_chunk(self._receive, self._rate, self._pace, self._clock.monotonic_s)
            self._ended = not more
            self.read_bytes += len(chunk)
            if self.read_bytes > self._max_bytes:
                raise too_large(self._max_bytes)
            if self._ended:
                check_length(self.read_bytes, self.length_bytes)
            if chunk:
                return chunk
        return b""


def too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"larger than the limit of {max_bytes} bytes", limit_bytes=max_bytes)

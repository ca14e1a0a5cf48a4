"""Sends a large body with a minimum rate, measured by the bytes that reached the client.

uvicorn waits without limit for a client that does not read (uvicorn#157). The return of a send says little,
because megabytes may still be in this process's write buffer and in the kernel's send buffer, which empty in
large steps. So the kernel is asked how much the client has not acknowledged yet.
"""

from __future__ import annotations

import asyncio

from starlette.types import Scope, Send

from artstore.errors import TooSlow
from artstore.http.body import BodyRateLimits, RateMeter
from artstore.http.output import EXTENSION, Output

MEASURE_EVERY_S = 1.0
"""How often the rate is measured while a send waits."""
UNMEASURED_S = 0.01
"""A shorter wait is not measured: it is not worth the system call."""
SPARE_BYTES = 1 << 20
"""The buffer of a client or a proxy empties in steps of up to this size, so the rate is averaged over one
step."""
TAIL_BYTES = 64 << 10
"""After a larger body the sender waits until the transport's buffer is empty, so that the rate is checked to
the end."""


class BodySender:
    """A context manager that sends the pieces of one body. It aborts the connection of a client below the
    minimum rate and raises TooSlow."""

    def __init__(self, scope: Scope, send: Send, limits: BodyRateLimits) -> None:
        self._send = send
        self._limits = limits
        self._output: Output | None = (scope.get("extensions") or {}).get(EXTENSION)
        """None under another server than ours: then only the waits are measured."""
        self._meter = RateMeter(limits.min_rate_bytes_per_s, limits.idle_timeout_s, SPARE_BYTES)
        self._handed_bytes = self._read_bytes = 0
        self._stalled_s = 0.0
        self.waits = False
        """True if the last piece had to wait for the client."""

    def __enter__(self) -> BodySender:
        if self._output is not None:
            self._output.paced = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._output is not None:
            self._output.paced = False

    async def send(self, piece: bytes, *, more: bool) -> None:
        """Returns when the next piece may be sent. Raises TooSlow."""
        self._handed_bytes += len(piece)
        if more or self._output is None or self._handed_bytes <= TAIL_BYTES:
            await self._deliver(piece, more)
            return
        await self._deliver(piece, True)
        self._output.wait_for_empty(True)
        try:
            await self._deliver(b"", False)
        finally:
            self._output.wait_for_empty(False)

    async def _deliver(self, piece: bytes, more: bool) -> None:
        """Waits for buffer space, as the server does before it writes, and measures the client during the
        wait."""
        loop = asyncio.get_running_loop()
        interval_s = min(MEASURE_EVERY_S, self._limits.idle_timeout_s / 4)
        since_s, self.waits = loop.time(), False
        # `measure` and its timer refer to each other until the next garbage collection, so they must not hold the piece.
        piece_bytes = len(piece)

        timer: asyncio.TimerHandle

        def measure() -> None:
            nonlocal since_s, timer
            now_s, self.waits = loop.time(), True
            if self._is_slow(now_s - since_s, piece_bytes):
                limit.reschedule(now_s)
                return
            since_s, timer = now_s, loop.call_later(interval_s, measure)

        timer = loop.call_later(interval_s, measure)
        try:
            async with asyncio.timeout(None) as limit:
                await self._send({"type": "http.response.body", "body": piece, "more_body": more})
            waited_s = loop.time() - since_s
            if waited_s < UNMEASURED_S and not self.waits:
                return
            slow = self._is_slow(waited_s, 0)
        except TimeoutError:
            slow = True
        finally:
            timer.cancel()
        if slow:
            if self._output is not None:
                self._output.abort()
            raise TooSlow("the client reads the answer too slowly", limit_bytes_per_s=self._limits.min_rate_bytes_per_s)

    def _is_slow(self, waited_s: float, unsent_bytes: int) -> bool:
        pending_bytes = 0 if self._output is None else self._output.pending_bytes()
        read_bytes = max(self._read_bytes, self._handed_bytes - unsent_bytes - pending_bytes)
        new_bytes, self._read_bytes = read_bytes - self._read_bytes, read_bytes
        self._stalled_s = 0.0 if new_bytes else self._stalled_s + waited_s
        if not self._limits.min_rate_bytes_per_s:
            return self._stalled_s >= self._limits.idle_timeout_s
        return not self._meter.keeps(waited_s, new_bytes)

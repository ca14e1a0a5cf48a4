"""A large answer on its way to a client that may read slowly: a minimum rate, measured by the bytes that reached the client.

uvicorn waits without end for a client that reads nothing (uvicorn#157). A send that returns says little: the bytes lie in this
process's write buffer and in the kernel's send buffer, megabytes of them, and move out of there in large steps. So the
kernel is asked how much of it the client has not acknowledged yet.
"""

from __future__ import annotations

import asyncio

from starlette.types import Scope, Send

from artstore.errors import TooSlow
from artstore.http.body import Pace, RateLimits
from artstore.http.output import EXTENSION, Output

LOOK_EVERY_S = 1.0
"""How often a client that keeps us waiting is measured."""
UNMEASURED_S = 0.01
"""A shorter wait is not worth a question to the kernel."""
SPARE_BYTES = 1 << 20
"""A receive buffer, or a proxy's, frees its room in steps: one that took a step may need that step's time before the next."""
TAIL_BYTES = 64 << 10
"""A larger body ends when the transport holds nothing of it any more, so that the rate is kept to the end."""


class BodySender:
    """Sends the pieces of one body, as a context manager. A client below the minimum rate is cut off, and TooSlow raised."""

    def __init__(self, scope: Scope, send: Send, limits: RateLimits) -> None:
        self._send = send
        self._limits = limits
        self._output: Output | None = (scope.get("extensions") or {}).get(EXTENSION)
        """Without it (another server) only the waits are measured."""
        self._pace = Pace(limits.min_rate_bytes_per_s, limits.idle_timeout_s, SPARE_BYTES)
        self._handed_bytes = self._taken_bytes = 0
        self._stalled_s = 0.0
        self.waits = False
        """The client kept the last piece waiting."""

    def __enter__(self) -> BodySender:
        if self._output is not None:
            self._output.paced = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._output is not None:
            self._output.paced = False

    async def send(self, piece: bytes, *, more: bool) -> None:
        """Returns when the next piece may come."""
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
        """Waits for room, as the server does before it writes. A client that is too slow is found while it is waited for."""
        loop = asyncio.get_running_loop()
        look_every_s = min(LOOK_EVERY_S, self._limits.idle_timeout_s / 4)
        since_s, self.waits = loop.time(), False
        # `look` and its timer refer to each other and stay until a collection: they must not hold the piece.
        piece_bytes = len(piece)

        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal since_s, timer
            now_s, self.waits = loop.time(), True
            if self._is_slow(now_s - since_s, piece_bytes):
                limit.reschedule(now_s)
                return
            since_s, timer = now_s, loop.call_later(look_every_s, look)

        timer = loop.call_later(look_every_s, look)
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
        taken_bytes = max(self._taken_bytes, self._handed_bytes - unsent_bytes - pending_bytes)
        came_bytes, self._taken_bytes = taken_bytes - self._taken_bytes, taken_bytes
        self._stalled_s = 0.0 if came_bytes else self._stalled_s + waited_s
        if not self._limits.min_rate_bytes_per_s:
            return self._stalled_s >= self._limits.idle_timeout_s
        return not self._pace.keeps(waited_s, came_bytes)

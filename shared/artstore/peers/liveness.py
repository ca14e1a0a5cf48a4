"""Detects a peer that accepts requests but does not answer: a stopped process, a network that drops packets.

A slow disk may delay a response, but a running event loop answers /health/live immediately. So requests that
have waited SILENT_S for the peer are given up if it does not answer there either, long before their own
timeouts.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Protocol

from artstore.tasks import TICK_S, until_tick

SILENT_S = 2.0
"""How long a request waits for its peer before the peer's liveness is checked."""
LIVE_TIMEOUT_S = 4.0
"""Timeout of that check. With SILENT_S and the pause between two rounds, a hung peer is detected within 7 s.
"""

LATE_S = 0.5
"""An event loop that was blocked for this long may have missed a response, or sent its request late."""


class LoopLag:
    """Tracks when this process's event loop was blocked: a timeout that expired meanwhile is not the peer's
    fault."""

    def __init__(self) -> None:
        self._ticked_s = asyncio.get_running_loop().time()
        self._late_s = -math.inf

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._note(loop.time())
            await asyncio.sleep(until_tick(TICK_S))

    def late_since(self, began_s: float) -> bool:
        """True if the event loop was blocked for LATE_S or longer at any time since `began_s`."""
        self._note(asyncio.get_running_loop().time())
        return self._late_s >= began_s

    def _note(self, now_s: float) -> None:
        if now_s - self._ticked_s >= LATE_S:
            self._late_s = now_s
        self._ticked_s = now_s


class PendingRequest(Protocol):
    """A request to a peer that is in progress."""

    @property
    def waiting_since_s(self) -> float | None:
        """When the wait for the peer began, by the event loop's clock; None while the peer waits for us."""

    def give_up(self) -> None:
        """Ends the request as if its timeout had expired."""


class ResponseWait:
    """A request that waits for the head of its response."""

    __slots__ = ("_limit", "waiting_since_s")

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self.waiting_since_s: float | None = asyncio.get_running_loop().time()

    def give_up(self) -> None:
        if not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())


class PendingRequests:
    """The requests in progress at one peer."""

    def __init__(self) -> None:
        self._pending: set[PendingRequest] = set()

    def add(self, request: PendingRequest) -> None:
        """Watches the request until `discard`."""
        self._pending.add(request)

    def discard(self, request: PendingRequest) -> None:
        self._pending.discard(request)

    def silent(self) -> list[PendingRequest]:
        """The requests that have waited longer than SILENT_S."""
        before_s = asyncio.get_running_loop().time() - SILENT_S
        return [request for request in self._pending if (request.waiting_since_s or before_s + 1) <= before_s]

    def give_up(self) -> int:
        """Ends every silent request; returns how many."""
        silent = self.silent()
        for request in silent:
            request.give_up()
        return len(silent)


class UploadBody:
    """The chunks of an upload to a peer. `limit` bounds how long the peer may take for each chunk; `failed`
    is the exception that the source of the chunks raised."""

    def __init__(self, chunks: AsyncIterator[bytes], idle_timeout_s: float) -> None:
        self._chunks, self._idle_timeout_s = chunks, idle_timeout_s
        self.limit: asyncio.Timeout
        self.failed: Exception | None = None
        self.waiting_since_s: float | None = asyncio.get_running_loop().time()

    async def read(self) -> AsyncIterator[bytes]:
        try:
            self._wait_for_chunk()
            async for chunk in self._chunks:
                self.wait_for_peer()
                yield chunk
                self._wait_for_chunk()
        except Exception as error:
            self.failed = error
            raise
        self.wait_for_peer()

    def wait_for_peer(self) -> None:
        self.waiting_since_s = asyncio.get_running_loop().time()
        self._expire_at(self.waiting_since_s + self._idle_timeout_s)

    def give_up(self) -> None:
        self._expire_at(asyncio.get_running_loop().time())

    def _wait_for_chunk(self) -> None:
        self.waiting_since_s = None
        self._expire_at(None)

    def _expire_at(self, at_s: float | None) -> None:
        if not self.limit.expired():
            self.limit.reschedule(at_s)

"""Detects a peer that accepts requests and no longer answers: a stopped process, a network that drops packets.

A slow disk may take its time, a live event loop answers /health/live at once. So requests that have waited SILENT_S for the
peer are given up as soon as it does not answer there either, long before their own timeouts.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

SILENT_S = 2.0
"""How long a request waits for its peer before the peer is asked whether it lives."""
LIVE_TIMEOUT_S = 4.0
"""For that answer. With SILENT_S and the pause between two rounds: a hung peer is known within seven seconds."""

TICK_S = 0.1
LATE_S = 0.5
"""An event loop that stood still for so long may have missed an answer, or sent its request late."""


class OwnLag:
    """Notes when this process itself was late: a timer that passed meanwhile says nothing of a peer."""

    def __init__(self) -> None:
        self._ticked_s = asyncio.get_running_loop().time()
        self._late_s = -math.inf

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._note(loop.time())
            await asyncio.sleep(TICK_S)

    def late_since(self, began_s: float) -> bool:
        """Whether the event loop stood still for LATE_S or more at any time since `began_s`."""
        self._note(asyncio.get_running_loop().time())
        return self._late_s >= began_s

    def _note(self, now_s: float) -> None:
        if now_s - self._ticked_s >= LATE_S:
            self._late_s = now_s
        self._ticked_s = now_s


class Wait(Protocol):
    """A request that may be waiting for its peer."""

    @property
    def waiting_since_s(self) -> float | None:
        """By the event loop's clock; None while the peer waits for us."""

    def give_up(self) -> None:
        """End the request as if its own timeout had passed."""


class AnswerWait:
    """The wait for the head of an answer."""

    __slots__ = ("_limit", "waiting_since_s")

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self.waiting_since_s: float | None = asyncio.get_running_loop().time()

    def give_up(self) -> None:
        if not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())


class Waits:
    """The requests under way to one peer."""

    def __init__(self) -> None:
        self._waits: set[Wait] = set()

    @contextmanager
    def watching(self, wait: Wait) -> Iterator[None]:
        self._waits.add(wait)
        try:
            yield
        finally:
            self._waits.discard(wait)

    def silent(self) -> list[Wait]:
        """Those that have waited longer than SILENT_S."""
        before_s = asyncio.get_running_loop().time() - SILENT_S
        return [wait for wait in self._waits if (wait.waiting_since_s or before_s + 1) <= before_s]

    def give_up(self) -> int:
        """Ends every silent wait; returns how many."""
        silent = self.silent()
        for wait in silent:
            wait.give_up()
        return len(silent)

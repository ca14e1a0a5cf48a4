"""How many requests one process may have open at one peer: control calls and transfers apart, so that neither waits for the
other, and no peer for another one's transfers.

A slot that does not come free in time is this process's own load, never the peer's fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from artstore.errors import Overloaded
from artstore.logs import get_logger

log = get_logger("artstore.peers")

Kind = Literal["control", "transfer"]

MAX_CONTROL_CALLS = 256
"""Lookups, sagas, reports, changes of attributes: each ends within its own short timeout."""
MAX_TRANSFERS = 2048
"""Half of the connections that a process accepts by default. A transfer may take hours."""
SLOT_WAIT_S = 2.0
"""How long a request waits for a slot before it is refused."""


class Pool:
    """The requests of one kind to one peer."""

    def __init__(self, peer: str, kind: Kind, limit: int) -> None:
        self._peer, self._kind, self._limit = peer, kind, limit
        self._slots = asyncio.Semaphore(limit)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Raises Overloaded when no slot comes free within SLOT_WAIT_S."""
        try:
            async with asyncio.timeout(SLOT_WAIT_S):
                await self._slots.acquire()
        except TimeoutError as error:
            log.warning("no slot for a request", peer=self._peer, kind=self._kind, limit=self._limit)
            what = "transfers" if self._kind == "transfer" else "requests"
            raise Overloaded(
                f"this service has {self._limit} {what} open at {self._peer}, its limit: try again later",
                limit=self._limit,
            ) from error
        try:
            yield
        finally:
            self._slots.release()


@dataclass(slots=True)
class Pools:
    """Both kinds of one peer."""

    peer: str
    control: Pool = field(init=False)
    transfer: Pool = field(init=False)

    def __post_init__(self) -> None:
        self.control = Pool(self.peer, "control", MAX_CONTROL_CALLS)
        self.transfer = Pool(self.peer, "transfer", MAX_TRANSFERS)

    def of(self, kind: Kind) -> Pool:
        return self.control if kind == "control" else self.transfer

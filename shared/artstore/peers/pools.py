"""Limits on the requests that one process has open at one peer (bulkheads). Control calls and transfers are
limited separately, so neither waits for the other, nor for the transfers of another peer.

Waiting too long for a slot means that this process is overloaded; it does not count against the peer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from artstore.errors import Overloaded
from artstore.logs import get_logger

log = get_logger("artstore.peers")

Kind = Literal["control", "transfer"]

MAX_CONTROL_CALLS = 256
"""Lookups, sagas, reports, attribute changes: each has a short timeout of its own."""
MAX_TRANSFERS = 2048
"""Half of the connections that a process accepts by default. A transfer may take hours."""
SLOT_WAIT_S = 2.0
"""How long a request waits for a slot before it is refused."""


class Pool:
    """The requests of one kind to one peer."""

    def __init__(self, peer: str, kind: Kind, limit: int) -> None:
        self._peer, self._kind, self._limit = peer, kind, limit
        self._slots = asyncio.Semaphore(limit)

    async def take(self) -> None:
        """Takes a slot until `release`. Raises Overloaded if none is free within SLOT_WAIT_S."""
        if not self._slots.locked():
            await self._slots.acquire()  # does not wait
            return
        try:
            async with asyncio.timeout(SLOT_WAIT_S):
                await self._slots.acquire()
        except TimeoutError as error:
            log.warning("no free request slot", peer=self._peer, kind=self._kind, limit=self._limit)
            what = "transfers" if self._kind == "transfer" else "requests"
            raise Overloaded(
                f"this service has reached its limit of {self._limit} open {what} at {self._peer}: try again later",
                limit=self._limit,
            ) from error

    def release(self) -> None:
        self._slots.release()


@dataclass(slots=True)
class Pools:
    """The pools of one peer."""

    peer: str
    control: Pool = field(init=False)
    transfer: Pool = field(init=False)

    def __post_init__(self) -> None:
        self.control = Pool(self.peer, "control", MAX_CONTROL_CALLS)
        self.transfer = Pool(self.peer, "transfer", MAX_TRANSFERS)

    def of(self, kind: Kind) -> Pool:
        return self.control if kind == "control" else self.transfer

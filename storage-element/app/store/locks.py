"""One change at a time per file id, and a way to stop a put that is still taking in its body."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from artstore.errors import Conflict

LOCK_WAIT_S = 30.0


class FileLocks:
    __slots__ = ("_held", "_watching")

    def __init__(self) -> None:
        self._held: dict[str, tuple[asyncio.Lock, int]] = {}
        self._watching: list[set[str]] = []

    def is_free(self, file_id: str) -> bool:
        """Then `hold` takes the lock without a wait, if nothing is awaited in between."""
        return file_id not in self._held

    @contextmanager
    def watch(self) -> Iterator[set[str]]:
        """The ids that are locked at any moment while the block runs: what was read of all others meanwhile is settled."""
        locked = set(self._held)
        self._watching.append(locked)
        try:
            yield locked
        finally:
            self._watching = [other for other in self._watching if other is not locked]

    @asynccontextmanager
    async def hold(self, file_id: str) -> AsyncIterator[None]:
        """Raises Conflict when another change of the same file does not end within LOCK_WAIT_S."""
        lock, users = self._held.get(file_id) or (asyncio.Lock(), 0)
        self._held[file_id] = (lock, users + 1)
        for locked in self._watching:
            locked.add(file_id)
        try:
            try:
                async with asyncio.timeout(LOCK_WAIT_S if users else None):
                    await lock.acquire()
            except TimeoutError as error:
                raise Conflict("another change of this file is under way") from error
            try:
                yield
            finally:
                lock.release()
        finally:
            lock, users = self._held.pop(file_id)
            if users > 1:
                self._held[file_id] = (lock, users - 1)


class Running:
    """A put under way. `stop` ends its wait for the body at once; one that has its body already goes on."""

    __slots__ = ("_limit", "saga_id", "stopped")

    def __init__(self, saga_id: str | None) -> None:
        self.saga_id = saga_id
        self.stopped = False
        self._limit: asyncio.Timeout | None = None

    def stop(self) -> None:
        self.stopped = True
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def stoppable(self) -> AsyncIterator[None]:
        """Around each wait for the sender. Raises Conflict once stopped."""
        try:
            self.require_wanted()
            async with asyncio.timeout(None) as limit:
                self._limit = limit
                yield
        except TimeoutError as error:
            if not self.stopped:
                raise
            raise _stopped() from error
        finally:
            self._limit = None

    def require_wanted(self) -> None:
        if self.stopped:
            raise _stopped()


def _stopped() -> Conflict:
    return Conflict("the upload was given up while it was running")

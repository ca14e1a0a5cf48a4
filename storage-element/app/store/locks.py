"""One change at a time per file id, and a way to stop a put that is still taking in its body."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from artstore.contracts.storage import GIVEN_UP_REASON
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

    def hold(self, file_id: str) -> Hold:
        """`async with`. Raises Conflict when another change of the same file does not end within LOCK_WAIT_S."""
        return Hold(self._held, self._watching, file_id)


class Hold:
    """A class and no generator: every put passes here."""

    __slots__ = ("_file_id", "_held", "_watching")

    def __init__(self, held: dict[str, tuple[asyncio.Lock, int]], watching: list[set[str]], file_id: str) -> None:
        self._held, self._watching, self._file_id = held, watching, file_id

    async def __aenter__(self) -> None:
        lock, users = self._held.get(self._file_id) or (asyncio.Lock(), 0)
        self._held[self._file_id] = (lock, users + 1)
        for locked in self._watching:
            locked.add(self._file_id)
        if users == 0:
            await lock.acquire()
            return
        try:
            async with asyncio.timeout(LOCK_WAIT_S):
                await lock.acquire()
        except BaseException as error:
            self._leave()
            if isinstance(error, TimeoutError):
                raise Conflict("another change of this file is under way") from error
            raise

    async def __aexit__(self, *_: object) -> None:
        self._held[self._file_id][0].release()
        self._leave()

    def _leave(self) -> None:
        lock, users = self._held.pop(self._file_id)
        if users > 1:
            self._held[self._file_id] = (lock, users - 1)


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

    def stoppable(self) -> Running:
        """`async with`, around each wait for the sender. Raises Conflict once stopped."""
        return self

    async def __aenter__(self) -> None:
        self.require_wanted()
        self._limit = asyncio.timeout(None)
        await self._limit.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        limit, self._limit = self._limit, None
        assert limit is not None
        try:
            await limit.__aexit__(kind, error, trace)
        except TimeoutError as timeout:
            raise _stopped() from timeout

    def require_wanted(self) -> None:
        if self.stopped:
            raise _stopped()


def _stopped() -> Conflict:
    return Conflict("the upload was given up while it was running", reason=GIVEN_UP_REASON)

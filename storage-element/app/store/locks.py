"""One change at a time per file id, and a way to stop a put that is still receiving its body."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from artstore.contracts.storage import GIVEN_UP_REASON
from artstore.errors import Conflict

Result = TypeVar("Result")

LOCK_WAIT_S = 30.0


class FileLocks:
    __slots__ = ("_held", "_watching")

    def __init__(self) -> None:
        self._held: dict[str, deque[asyncio.Future[None]]] = {}
        """By locked file, those who wait for it."""
        self._watching: list[set[str]] = []

    def is_free(self, file_id: str) -> bool:
        """If true, `hold` takes the lock without waiting, provided nothing is awaited in between."""
        return file_id not in self._held

    @contextmanager
    def watch(self) -> Iterator[set[str]]:
        """The ids that are locked at any moment while the block runs: no other file changes meanwhile."""
        locked = set(self._held)
        self._watching.append(locked)
        try:
            yield locked
        finally:
            self._watching = [other for other in self._watching if other is not locked]

    def hold(self, file_id: str) -> Hold:
        """`async with`. Raises Conflict when another change of the file does not end within LOCK_WAIT_S."""
        return Hold(self._held, self._watching, file_id)


class Hold:
    """A class rather than a generator, for speed: every put passes here."""

    __slots__ = ("_file_id", "_held", "_watching")

    def __init__(self, held: dict[str, deque[asyncio.Future[None]]], watching: list[set[str]], file_id: str) -> None:
        self._held, self._watching, self._file_id = held, watching, file_id

    def enter_free(self) -> bool:
        """Take the lock if it is free; `leave` releases it."""
        if self._file_id in self._held:
            return False
        self._held[self._file_id] = deque()
        for locked in self._watching:
            locked.add(self._file_id)
        return True

    def leave(self) -> None:
        """The lock passes to the one who has waited longest."""
        waiting = self._held[self._file_id]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():  # else cancelled
                turn.set_result(None)
                return
        del self._held[self._file_id]

    async def __aenter__(self) -> None:
        if self.enter_free():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held[self._file_id].append(turn)
        try:
            async with asyncio.timeout(LOCK_WAIT_S):
                await turn
        except BaseException as error:
            if not turn.cancelled():  # cancelled just after its turn had come
                self.leave()
            if isinstance(error, TimeoutError):
                raise Conflict("another change of this file is in progress") from error
            raise

    async def __aexit__(self, *_: object) -> None:
        self.leave()


class Stoppable:
    """Work that waits for a sender. `stop` ends the wait at once; work that has received everything continues."""

    __slots__ = ("_timeout", "saga_id", "stopped")

    def __init__(self, saga_id: str | None) -> None:
        self.saga_id = saga_id
        self.stopped = False
        self._timeout: asyncio.Timeout | None = None

    def stop(self) -> None:
        self.stopped = True
        if self._timeout is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time())

    def require_wanted(self) -> None:
        """Raises Conflict once stopped."""
        if self.stopped:
            raise _given_up()

    async def wait_for(self, sender: Coroutine[Any, Any, Result]) -> Result:
        """Raises Conflict as soon as it is stopped."""
        if self.stopped:
            sender.close()
            raise _given_up()
        try:
            async with asyncio.timeout(None) as self._timeout:
                return await sender
        except TimeoutError as error:
            if self._timeout is not None and self._timeout.expired():
                raise _given_up() from error
            raise
        finally:
            self._timeout = None


def _given_up() -> Conflict:
    return Conflict("the upload was given up while it was running", reason=GIVEN_UP_REASON)

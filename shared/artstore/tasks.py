"""Background tasks: each has a name and an owner, its failures are logged, and loops continue after a pause.

Every loop that lives as long as its process runs here, because asyncio does not restart a task that ended
with an exception.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any, TypeVar

from artstore.logs import get_logger, request_id
from artstore.tracing import begin_work

log = get_logger("artstore.tasks")

MAX_PAUSE_S = 30.0
"""The longest pause after repeated failures of a periodic task."""
MAX_RESTART_PAUSE_S = 2.0
"""The longest pause before a loop is restarted. Short, because its dependency may have recovered already."""
MIN_FAILURE_PAUSE_S = 0.05
"""The first pause after a failure of a loop with a pause of 0, which would spin while its dependency is
unavailable."""

TICK_S = 0.25
"""Periodic work of one process wakes at common times, this far apart: an idle process wakes 4 times a second instead
of 25, and each wake-up costs more than most of this work."""
TIMER_SLACK_MS = 20
"""A timer that fires this early must not be set again for the same tick."""
CANCEL_AGAIN_S = 0.5
NEW_OUTAGE_AFTER_S = 120.0
"""A failure this long after the last one begins a new outage, because work that runs for hours does not
report success meanwhile."""

COMPLETE_S = 5.0
"""The longest that a stop waits for tasks that are to complete."""

T = TypeVar("T")


def until_tick(seconds: float) -> float:
    """The time until the last tick within the next `seconds`, or `seconds` itself if it is shorter than a tick.
    Processes tick at different times."""
    if seconds < TICK_S:
        return seconds
    tick_ms = round(TICK_S * 1000)
    now_ms = round(asyncio.get_running_loop().time() * 1000) + os.getpid() % tick_ms
    end_ms = now_ms + round(seconds * 1000) + TIMER_SLACK_MS
    return (end_ms // tick_ms * tick_ms - now_ms) / 1000


class OutageLog:
    """Logs an outage instead of each failure: a warning when it begins or its reason changes, an info line when it ends.

    `event` is the log event of a failure. Repetitions are logged at debug level.
    """

    def __init__(self, log: Any, event: str) -> None:
        self._log, self._event, self._failures, self._reason = log, event, 0, ""
        self._failed_s = float("-inf")

    def failed(self, reason: str, **fields: Any) -> None:
        """Reports a failure; `fields` become fields of the log event."""
        now_s = time.monotonic()
        if now_s - self._failed_s > NEW_OUTAGE_AFTER_S:
            self._failures = 0
        self._failures += 1
        write = self._log.debug if self._failures > 1 and reason == self._reason else self._log.warning
        self._failed_s, self._reason = now_s, reason
        write(self._event, error=reason, failures=self._failures, **fields)

    def succeeded(self, **fields: Any) -> None:
        """Reports a success, which ends the outage if there is one."""
        if self._failures:
            self._log.info(f"{self._event}: over", failures=self._failures, **fields)
            self._failures, self._reason = 0, ""


def spawn(name: str, work: Coroutine[Any, Any, T], context: Context | None = None) -> asyncio.Task[T]:
    """Starts a task whose result is awaited, or which is cancelled, by its owner. If the owner is cancelled
    first, a failure is logged at debug level instead of asyncio's "exception was never retrieved"."""
    task = asyncio.create_task(work, name=name, context=context)
    task.add_done_callback(_retrieve)
    return task


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("task ended with an error", task=task.get_name(), error=str(error) or type(error).__name__)


async def wait_or_timeout(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait until `event` is set, for at most `timeout_s`. True when it was set. Does not clear it."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


class Tasks:
    """A group of background tasks. When it is closed, every task is cancelled and awaited."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._completing: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Tasks]:
        tasks = cls()
        try:
            yield tasks
        finally:
            await tasks.close()

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs `work` once. A failure is logged."""
        task = spawn(name, self._logged(name, work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(
            lambda _: work.close()
        )  # a task that was cancelled before its first step never awaited it
        return task

    def complete(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """As `start`, for short work that gives something back, such as a lease: `close` lets it end first,
        for at most COMPLETE_S."""
        task = self.start(name, work)
        self._completing.add(task)
        task.add_done_callback(self._completing.discard)
        return task

    def every(self, name: str, seconds: float, work: Callable[[], Awaitable[object]]) -> asyncio.Task[None]:
        """Runs `work` every `seconds`, measured from end to start. After failures the pause grows up to
        MAX_PAUSE_S."""
        return self.start(name, repeat(name, seconds, work))

    def forever(self, name: str, work: Callable[[], Awaitable[object]], pause_s: float = 0.5) -> asyncio.Task[None]:
        """Runs `work`, itself a loop, and restarts it `pause_s` after it has ended. After failures the pause
        grows up to MAX_RESTART_PAUSE_S."""
        return self.start(name, repeat(name, pause_s, work, MAX_RESTART_PAUSE_S))

    async def close(self) -> None:
        """Cancels all tasks and waits until they have ended. Cancels repeatedly, because redis-py swallows a
        cancellation while it reconnects."""
        if self._completing:
            await asyncio.wait(self._completing, timeout=COMPLETE_S)
        while self._running:
            for task in self._running:
                task.cancel()
            await asyncio.wait(self._running, timeout=CANCEL_AGAIN_S)

    async def _logged(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        if not request_id.get():  # else it continues the work of a request
            begin_work(name)
        try:
            await work
        except Exception as error:  # the edge of the task: its exception is not retrieved
            log.error("task failed", task=name, error=describe(error), exc_info=True)


async def repeat(
    name: str, seconds: float, work: Callable[[], Awaitable[object]], max_pause_s: float = MAX_PAUSE_S
) -> None:
    """The loop of `every` and `forever`, for owners that manage the task themselves. Only a cancellation ends
    it."""
    failures = 0
    outage = OutageLog(log, "task round failed")
    while True:
        begin_work(name)
        try:
            await work()
            failures = 0
            outage.succeeded(task=name)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            failures += 1  # a library leaked the cancellation of another future: this task continues
            outage.failed("a call was cancelled", task=name)
        except Exception as error:  # periodic-task runner: the next round may succeed
            failures += 1
            outage.failed(describe(error), task=name)
        slow_s = max(seconds, MIN_FAILURE_PAUSE_S) * 2 ** min(failures, 8)
        pause_s = min(slow_s, max(max_pause_s, seconds)) if failures else seconds
        await asyncio.sleep(until_tick(pause_s * random.uniform(1.0, 1.1)))


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def describe(error: Exception) -> str:
    """Its text, or its type where it has none or cannot make one."""
    try:
        return str(error) or type(error).__name__
    except Exception:  # a library's own __str__
        return type(error).__name__

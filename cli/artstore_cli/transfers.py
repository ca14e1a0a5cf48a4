"""Runs the transfers of `put` and `get`: several at once, with progress bars on a terminal, until Ctrl-C.

The first Ctrl-C starts nothing new and breaks off what can be continued later; short requests end by themselves, so that
their outcome is known. The second breaks off everything.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .errors import ExitCode
from .failures import Failure, describe, exit_code_of, interruption
from .output import Output, printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

NAME_CHARS = 40


@dataclass(frozen=True)
class Job:
    """One transfer. `run` reports its own failures by `Transfers.failed`; what it raises is a failure of `name`."""

    name: str
    run: Callable[[], Coroutine[Any, Any, None]]
    resumable: bool
    """It can be broken off, and the same command continues it."""
    items: int = 1


@dataclass
class Transfers:
    """The state of one command."""

    out: Output
    bars: Bars
    failures: list[Failure] = field(default_factory=list)
    untried: int = 0
    interrupted: bool = False
    _stopping: bool = False
    _running: dict[asyncio.Task[None], Job] = field(default_factory=dict)

    async def run(self, jobs: Iterable[Job], at_once: int) -> ExitCode:
        """Runs all jobs. The exit code of the command."""
        waiting = deque(jobs)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        try:
            while self._running or (waiting and not self._stopping):
                while waiting and not self._stopping and len(self._running) < at_once:
                    job = waiting.popleft()
                    self._running[asyncio.create_task(job.run())] = job
                ended, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    self._ended(task, self._running.pop(task))
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
            await self._cancel(list(self._running))
        self.untried += sum(job.items for job in waiting)
        if self.interrupted:
            self.out.error(interruption("the same command again continues"))
            return ExitCode.INTERRUPTED
        return exit_code_of(self.failures)

    def failed(self, failure: Failure) -> None:
        """Shows a failure. One that would meet all others too ends the command."""
        self.failures.append(failure)
        self._stopping = self._stopping or failure.stops_all
        self.out.error(failure.shown())

    def _ended(self, task: asyncio.Task[None], job: Job) -> None:
        """Raises ClosedPipe and defects of this program."""
        if task.cancelled():
            self.untried += job.items
            return
        error = task.exception()
        if isinstance(error, Exception):
            self.failed(describe(error).about(job.name))
        elif error is not None:
            raise error

    def _interrupt(self) -> None:
        again, self.interrupted, self._stopping = self.interrupted, True, True
        broken_off = [task for task, job in self._running.items() if again or job.resumable]
        for task in broken_off:
            task.cancel()
        if len(broken_off) < len(self._running):
            self.out.note("finishing short requests; Ctrl-C again breaks them off")

    async def _cancel(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Bars:
    """Progress bars on standard error if a person looks at it, else nothing."""

    def __init__(self, out: Output, total_bytes: int | None, title: str) -> None:
        self._progress: Progress | None = None
        self._all: TaskID | None = None
        self._done = 0
        if out.as_json or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        if total_bytes is not None:
            self._all = self._progress.add_task(title, total=total_bytes)

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._progress:
            self._progress.stop()

    def bar(self, name: str, total: int | None) -> Bar:
        return Bar(self._progress, self._advance, name, total)

    def skip(self, size_bytes: int) -> None:
        """Counts bytes that need not be transferred."""
        self._advance(size_bytes)

    def _advance(self, size_bytes: int) -> None:
        """Bytes that were sent twice are subtracted again: `size_bytes` may be negative."""
        if self._progress and self._all is not None:
            self._progress.advance(self._all, size_bytes)


class Bar:
    """The bar of one file; `shown(sent, total)` is a progress callback of the client."""

    def __init__(self, progress: Progress | None, advance: Callable[[int], None], name: str, total: int | None) -> None:
        self._progress, self._advance, self._sent = progress, advance, 0
        shown = printable(name)
        shown = shown if len(shown) <= NAME_CHARS else f"…{shown[-NAME_CHARS + 1 :]}"
        self._task = progress.add_task(shown, total=total) if progress else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._progress and self._task is not None:
            self._progress.remove_task(self._task)

    def shown(self, sent: int, total: int | None) -> None:
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=sent, total=total)
        self._advance(sent - self._sent)
        self._sent = sent

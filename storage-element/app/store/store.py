"""What the verbs (put, get, update, delete, recover) share: the open element's parts, nothing of their order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from artstore.clock import Clock, rfc3339
from artstore.tasks import spawn

from .backends.base import Backend, OpenData
from .catalog import Catalog
from .disk_health import DiskHealth
from .locks import FileLocks, Running
from .progress import Progress
from .space import Space, Usage
from .wal.log import OpenIntent, Wal
from .wal.records import Intent, Unconfirmed

Result = TypeVar("Result")

MAX_COMPENSATED = 10_000
"""Sagas remembered as compensated, so that a put of theirs still on the wire finds the door closed."""


SCANNERS = 6
"""Each kind of upkeep scans in one thread at a time; the rest is for listings."""


class Threads:
    """One pool for each kind of work, so that no reader waits for a sync, an upload to S3 or a scan of the disk.

    Small files on a disk are written by the log's own thread.
    """

    def __init__(self, at_once: int) -> None:
        self.writers = ThreadPoolExecutor(at_once, "store-write")
        self.readers = ThreadPoolExecutor(at_once, "store-read")
        self.scanners = ThreadPoolExecutor(SCANNERS, "store-scan")

    def shutdown(self) -> None:
        for pool in (self.writers, self.readers, self.scanners):
            pool.shutdown()


def _always() -> None:
    """A root that nobody else can have: tests and tools."""


@dataclass(frozen=True, slots=True)
class Limits:
    small_bytes: int = 64 << 10
    """Up to here a file's bytes ride in the log's frame."""
    max_file_bytes: int = 1 << 40


@dataclass(slots=True)
class Held:
    """One revision, for readers who come while data and attr.json are being swapped: the one before where it stays open."""

    attributes: bytes
    data: OpenData

    def move_on(self, attributes: bytes, staged: OpenData | None) -> None:
        """To the revision that was decided, where the old one's bytes do not outlive the swap."""
        if staged is not None:
            self.data.close()
            self.attributes, self.data = attributes, staged


@dataclass(frozen=True, slots=True)
class PendingWork:
    """What was decided about a file while its backend was away. `gone`: readers must not see it any more."""

    work: Callable[[], None]
    gone: bool


@dataclass(slots=True)
class Findings:
    """What was found and did not stop anything; the element shows it as metrics."""

    damaged: int = 0
    torn_tails: int = 0
    unreadable_frames: int = 0
    swept_temps: int = 0
    resolved_intents: int = 0
    redone_files: int = 0
    unreadable: int = 0
    """Reads of a file or folder that the disk refused."""
    put_back: int = 0
    """Files that a person put where the log had deleted or changed one: they stay."""


@dataclass(slots=True)
class Store:
    element_id: str
    files: Backend
    wal: Wal
    catalog: Catalog
    clock: Clock
    disk_health: DiskHealth
    usage: Usage
    space: Space
    limits: Limits
    root_fd: int
    threads: Threads
    locks: FileLocks = field(default_factory=FileLocks)
    running: dict[str, Running] = field(default_factory=dict)
    swapping: dict[str, Held] = field(default_factory=dict)
    swaps: int = 0
    """Begun so far: a reader that looks from a thread sees by it that one has begun meanwhile."""
    unconfirmed: dict[str, Unconfirmed] = field(default_factory=dict)
    """Files whose saga has not been seen committed: what a compensation may take away."""
    unsettled: dict[str, list[OpenIntent]] = field(default_factory=dict)
    """Files whose catalog row may differ from the disk, with the intents that wait for it."""
    stuck: set[str] = field(default_factory=set)
    """Of these the ones whose own attributes or row stand in the way; said once in the log."""
    owed: dict[str, PendingWork] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    progress: Progress = field(default_factory=Progress)
    require_confirmed: Callable[[], None] = _always
    """Raises Unavailable while the registry has not accepted this root, or its disk is gone: then what is not here may still
    exist, and nothing outside the root may follow from it."""
    compensated: dict[str, None] = field(default_factory=dict)
    checkpointing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One checkpoint at a time: the log's thread has one place for it."""
    _owned: set[asyncio.Task[Any]] = field(default_factory=set)

    def now(self) -> str:
        return rfc3339(self.clock.now())

    def begin(
        self, intent: Intent, work: Callable[[], None], data: bytes = b"", *, copies: int = 1
    ) -> tuple[OpenIntent, Callable[[], None] | None]:
        """An intent and what it decides. Where files ride in the log the work follows the sync in the same thread hop;
        elsewhere it is given back, to be done once the intent is durable."""
        if self.files.rides_in_log:
            return self.wal.begin(intent, data, then=work, copies=copies), None
        begun = self.wal.begin(intent, copies=copies)
        begun.applied = True  # no checkpoint waits for it: it carries what is open
        return begun, work

    async def query(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function that reads from the backend: directly where the backend does not block, else in a thread."""
        if self.files.nonblocking_reads:
            return function(*arguments)
        return await self.read_in_thread(function, *arguments)

    async def in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Among those that change files."""
        return await asyncio.get_running_loop().run_in_executor(self.threads.writers, function, *arguments)

    async def read_in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Among those that read one file for a request."""
        return await asyncio.get_running_loop().run_in_executor(self.threads.readers, function, *arguments)

    async def scan_in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Among those that look at many files: listings and upkeep."""
        return await asyncio.get_running_loop().run_in_executor(self.threads.scanners, function, *arguments)

    async def to_the_end(self, work: Coroutine[Any, Any, Result], running: Running | None = None) -> Result:
        """Run a protocol so that no cancellation splits it. A caller that goes away stops a put that lacks its body."""
        task = spawn("protocol", work)
        self._owned.add(task)
        task.add_done_callback(self._owned.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if running is not None:
                running.stop()
            await asyncio.wait({task})
            raise

    def confirm(self, file_ids: Iterable[str]) -> None:
        """The sagas of these files were committed: no compensation may remove them, also after a crash."""
        confirmed = [file_id for file_id in file_ids if self.unconfirmed.pop(file_id, None) is not None]
        for file_id in confirmed:
            for begun in self.unsettled.get(file_id, ()):
                begun.confirmed = True
        if confirmed:
            self.wal.confirm(confirmed)

    def is_removal_pending(self, file_id: str) -> bool:
        """The removal is decided, and the backend has not done it yet: readers must not see the file any more."""
        pending = self.owed.get(file_id)
        return pending is not None and pending.gone

    def remember_compensated(self, saga_id: str) -> None:
        self.compensated[saga_id] = None
        if len(self.compensated) > MAX_COMPENSATED:
            del self.compensated[next(iter(self.compensated))]

    async def drain(self) -> None:
        """Stop what waits for a body and let everything else come to its end."""
        for running in self.running.values():
            running.stop()
        if self._owned:
            await asyncio.wait(self._owned)

    def end_threads(self) -> None:
        self.threads.shutdown()

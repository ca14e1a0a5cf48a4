"""The open store: the parts that the operations (put, get, update, delete, recover) share, and none of their order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import msgspec
from opentelemetry.trace import SpanContext

from artstore.clock import Clock, rfc3339
from artstore.contracts.storage import SMALL_FILE_BYTES
from artstore.tasks import spawn

from .backends.base import Backend, OpenData
from .catalog import Catalog
from .disk_health import DiskHealth
from .locks import FileLocks, Stoppable
from .progress import Progress
from .space import Space, Usage
from .verified import Verified
from .wal.log import OpenIntent, Wal
from .wal.records import Intent, Kind, Unconfirmed

Result = TypeVar("Result")

MAX_COMPENSATED = 10_000
"""Sagas remembered as compensated, so that a put of theirs that is still in flight is refused."""
SCANNERS = 8
"""A rebuild scans in up to four threads at a time, each other task of upkeep in one; the other threads are for listings."""


class Threads:
    """One pool for each kind of work, so that no reader waits for a sync, an upload to S3 or a scan of the disk.

    Small files on a disk are written by the log's own thread.
    """

    def __init__(self, size: int) -> None:
        self.writers = ThreadPoolExecutor(size, "store-write")
        self.readers = ThreadPoolExecutor(size, "store-read")
        self.scanners = ThreadPoolExecutor(SCANNERS, "store-scan")

    def shutdown(self) -> None:
        for pool in (self.writers, self.readers, self.scanners):
            pool.shutdown()


@dataclass(frozen=True, slots=True)
class Limits:
    small_bytes: int = SMALL_FILE_BYTES
    """A body up to this size stays in memory, and its file is carried by the log's frame where the log carries files."""
    max_file_bytes: int = 1 << 40


@dataclass(slots=True)
class HeldRevision:
    """The revision that readers get while data and attr.json are being swapped: the old one where it stays readable."""

    attributes: bytes
    data: OpenData

    def replace(self, attributes: bytes, data: OpenData | None) -> None:
        """Continue with the decided revision, where the old one's bytes do not outlive the swap. None: they do."""
        if data is not None:
            self.data.close()
            self.attributes, self.data = attributes, data


@dataclass(frozen=True, slots=True)
class PendingWork:
    """A decided change that the backend has not made yet. It may be repeated. `removes`: readers must not see the file."""

    run: Callable[[], None]
    removes: bool


@dataclass(frozen=True, slots=True)
class FileChange:
    """A change for the audit log. After a crash it may be given again, with the same revision."""

    action: Literal["update", "delete"]
    file_id: str
    account: str
    revision: int
    size_bytes: int


async def _record_nothing(_change: FileChange) -> None:
    """For tests and tools, which have no audit log."""


@dataclass(slots=True)
class Findings:
    """Counters of what was found and stopped nothing; shown as metrics."""

    damaged: int = 0
    torn_tails: int = 0
    unreadable_frames: int = 0
    swept_temps: int = 0
    resolved_intents: int = 0
    redone_files: int = 0
    unreadable: int = 0
    """Reads of a file or folder that the disk refused."""
    put_back: int = 0
    """Files restored by a person where the log had deleted or changed one. They stay."""
    quarantined_files: int = 0
    """Files in the quarantine now: goes down when a person removes them and they are counted again."""


@dataclass(frozen=True, slots=True)
class LateRow:
    """A put whose row is settled behind its answer (settle_late.py). `since_s` is the event loop's time, `put` the
    span of the put."""

    intent: OpenIntent
    since_s: float
    put: SpanContext | None


def _confirmed_always() -> None:
    """For tests and tools, whose root cannot be a copy."""


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
    receiving: dict[str, Stoppable] = field(default_factory=dict)
    """Puts and rewrites in progress, by file."""
    swapping: dict[str, HeldRevision] = field(default_factory=dict)
    swaps: int = 0
    """Swaps begun so far: by it a reader in a thread detects that one has begun meanwhile."""
    unconfirmed: dict[str, Unconfirmed] = field(default_factory=dict)
    """Files whose saga has not been seen committed: only these may be removed by a compensation."""
    unsettled: dict[str, list[OpenIntent]] = field(default_factory=dict)
    """Files whose catalog row may differ from the disk, with the intents that wait for the row."""
    verified: Verified = field(default_factory=Verified)
    late: dict[str, LateRow] = field(default_factory=dict)
    """Those of the unsettled files that are settled behind the answer of their put, the earliest first."""
    late_bytes: int = 0
    """The size of their intents in a checkpoint."""
    late_waits: asyncio.Event = field(default_factory=asyncio.Event)
    stuck: set[str] = field(default_factory=set)
    """Unsettled files that cannot be read, or whose row the catalog refuses; each is logged once."""
    pending: dict[str, PendingWork] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    progress: Progress = field(default_factory=Progress)
    require_confirmed: Callable[[], None] = _confirmed_always
    """Raises Unavailable while the registry has not accepted this root, or its disk is missing: then a file that is not found
    may still exist, and nothing outside the root may follow from the root's content."""
    record_change: Callable[[FileChange], Awaitable[None]] = _record_nothing
    """Returns when the audit log has the change durably. Raises Unavailable."""
    compensated: dict[str, None] = field(default_factory=dict)
    checkpointing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One checkpoint at a time: the log's thread has one place for it."""
    _operations: set[asyncio.Task[Any]] = field(default_factory=set)

    def now(self) -> str:
        return rfc3339(self.clock.now())

    def begin(self, intent: Intent, work: Callable[[], None], data: bytes = b"", *, copies: int = 1) -> OpenIntent:
        """Log a decided change whose effect is `work`.

        If the log carries files, its thread runs `work` right after the sync. Else the frame carries no bytes, and the
        caller runs `OpenIntent.work` once the intent is durable.
        """
        if self.files.log_carries_files:
            return self.wal.begin(intent, data, then=work, copies=copies)
        if intent.kind is Kind.PUT_SMALL:
            intent = msgspec.structs.replace(intent, kind=Kind.PUT_LARGE)
        opened = self.wal.begin(intent, copies=copies)
        opened.work, opened.applied = work, True  # a checkpoint carries the open intent and does not wait for it
        return opened

    async def query(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function that reads from the backend: directly where the backend does not block, else in a thread."""
        if self.files.nonblocking_reads:
            return function(*arguments)
        return await self.read_in_thread(function, *arguments)

    async def in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """For calls that change files."""
        return await asyncio.get_running_loop().run_in_executor(self.threads.writers, function, *arguments)

    async def read_in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """For calls that read one file for a request."""
        return await asyncio.get_running_loop().run_in_executor(self.threads.readers, function, *arguments)

    async def scan_in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """For calls that read many files: listings and upkeep."""
        return await asyncio.get_running_loop().run_in_executor(self.threads.scanners, function, *arguments)

    async def complete(self, operation: Coroutine[Any, Any, Result], body: Stoppable | None = None) -> Result:
        """Run an operation so that a cancelled caller does not cut it short. Its body, if not received yet, is stopped."""
        task = spawn("operation", operation)
        self._operations.add(task)
        task.add_done_callback(self._operations.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if body is not None:
                body.stop()
            await asyncio.wait({task})
            raise

    def confirm(self, file_ids: Iterable[str]) -> None:
        """The sagas of these files were committed: no compensation may remove them, also after a crash."""
        confirmed = [file_id for file_id in file_ids if self.unconfirmed.pop(file_id, None) is not None]
        for file_id in confirmed:
            for opened in self.unsettled.get(file_id, ()):
                opened.confirmed = True
        if confirmed:
            self.wal.confirm(confirmed)

    def is_removal_pending(self, file_id: str) -> bool:
        """The removal is decided and not made yet: readers must not see the file any more."""
        pending = self.pending.get(file_id)
        return pending is not None and pending.removes

    def remember_compensated(self, saga_id: str) -> None:
        self.compensated[saga_id] = None
        if len(self.compensated) > MAX_COMPENSATED:
            del self.compensated[next(iter(self.compensated))]

    async def drain(self) -> None:
        """Stop the operations that wait for a body, and let all others complete."""
        for body in self.receiving.values():
            body.stop()
        if self._operations:
            await asyncio.wait(self._operations)

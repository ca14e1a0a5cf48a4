"""The write-ahead log as the operations use it: open intents, marks on them, and checkpoints that free old segments.

Records that wait at the same moment become durable together, by one sync (writer.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from artstore.failpoints import failpoint
from artstore.tracing import add_span, recording, span

from ..disk_health import DiskHealth
from .records import (
    CARRIES_REDO,
    CarriedIntent,
    Checkpoint,
    Closed,
    Confirmed,
    Intent,
    Kind,
    Mark,
    Record,
    Step,
    encode_record,
)
from .ring import Ring, WalLimits
from .segment import Segment
from .writer import QueuedRecord, Writer, WriteTimes

UNCONFIRMED_BYTES = 128
"""Size of an unconfirmed file in a checkpoint: two ids of 36 characters, a time, msgpack's lengths; rounded up."""
CONFIRMED_PER_RECORD = 256
"""Both copies of such a record fit into the smallest segment many times over."""
LAZY_WRITE_S = 0.05
"""How long a record without a waiting operation stays in memory when nothing else is written."""


@dataclass(slots=True, eq=False)
class OpenIntent:
    """An intent that is not closed. `applied` once its effect is in the files (at least in the page cache) or has failed."""

    number: int
    record: Intent
    durable: asyncio.Future[WriteTimes | None]
    applied: bool = False
    aborted: bool = False
    decided: Mark | None = None
    confirmed: bool = False
    undone: bytes = b""
    recorded: bool = False
    """The audit log has the change. Not known after a start: then it is recorded again."""
    work: Callable[[], None] | None = None
    """To be run by the operation once the intent is durable, unless the log's thread runs it."""

    async def logged(self) -> None:
        """Waits until the intent is durable, and `then` has run."""
        await _logged(self.durable)

    def carried(self) -> CarriedIntent:
        return CarriedIntent(self.number, self.record, self.aborted, self.decided, self.confirmed, self.undone)


class Wal:
    """`rotated` is set when a segment was filled: a checkpoint is due."""

    def __init__(self, folder: str, limits: WalLimits, disk_health: DiskHealth) -> None:
        self.open: dict[int, OpenIntent] = {}
        self.rotated = asyncio.Event()
        self._limits = limits
        self._ring = Ring(folder, limits)
        self._writer = Writer(self._ring, limits.segment_bytes // 4, disk_health, self._completed, self.rotated)
        self._next = 1
        self._closed: list[int] = []
        self._waking = False
        self._lazy: asyncio.TimerHandle | None = None

    async def start(self, free: list[Segment], live: list[Segment], next_number: int, last_sequence: int) -> None:
        """`live` segments, oldest first, are kept until the next checkpoint: a crash before it reads them again."""
        self._next = next_number
        await asyncio.to_thread(self._ring.start, free, live, next_number, last_sequence)
        self._writer.start()

    def begin(
        self, intent: Intent, data: bytes = b"", *, then: Callable[[], None] | None = None, copies: int = 1
    ) -> OpenIntent:
        """Queue an intent. Awaiting its `durable` raises ElementFailed, or the OSError of `then`, which runs after the sync.

        Two copies for a removal: one damaged byte must not bring a deleted file back.
        """
        queued = self._build(intent, data, copies=copies, then=then)
        assert queued.done is not None
        opened = self.open[queued.number] = OpenIntent(queued.number, intent, queued.done)
        self._add(queued)
        return opened

    def adopt(self, number: int, carried: CarriedIntent) -> OpenIntent:
        """Open an intent of an earlier run again, which still waits for the catalog."""
        done: asyncio.Future[WriteTimes | None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        opened = OpenIntent(
            number,
            carried.intent,
            done,
            applied=True,
            aborted=carried.aborted,
            decided=carried.decided,
            confirmed=carried.confirmed,
            undone=carried.undone,
        )
        self.open[number] = opened
        return opened

    async def mark(self, opened: OpenIntent, step: Step, *, attributes: bytes = b"", temp: str = "") -> None:
        """Log durably, in two copies, that the operation reached `step`."""
        mark = _mark_of(opened, step, attributes, temp or opened.record.temp)
        if step is Step.ABORTED:
            opened.aborted, opened.undone = True, attributes
        if step is Step.DECIDED:
            opened.decided = mark
        await self._add_and_wait(self._build(mark, copies=2))

    def close_intent(self, opened: OpenIntent) -> None:
        """Nothing is left to do. Written with the next sync; if it is lost, recovery finds the same on the disk.

        A delete is closed by a mark of its own, a third copy beside its two intents; others share a record.
        """
        del self.open[opened.number]
        if opened.record.kind is Kind.DELETE and not opened.aborted:
            self._writer.add(self._build(_mark_of(opened, Step.CLOSED), wait=False))
        else:
            self._closed.append(opened.number)
        self._write_lazily()

    def confirm(self, file_ids: Sequence[str]) -> None:
        """Log in two copies that the sagas of these files were committed: one damaged byte must not make them removable again.

        Written with the next sync. If a power cut loses it, the catalog is queried again.
        """
        for start in range(0, len(file_ids), CONFIRMED_PER_RECORD):
            record = Confirmed(list(file_ids[start : start + CONFIRMED_PER_RECORD]))
            self._writer.add(self._build(record, copies=2, wait=False))
        self._write_lazily()

    async def log_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Durable in two copies; then the segments below it may be used again."""

        def free_segments() -> None:
            failpoint("checkpoint.logged")
            self._ring.free_below(checkpoint.redo_from)

        queued = self._build(checkpoint, copies=2, then=free_segments)
        queued.frees = True
        await self._add_and_wait(queued)

    @property
    def boundary(self) -> int:
        """The first number of the segment in use. All records below it are written, and their `then` has run."""
        return self._ring.current.first

    @property
    def max_unconfirmed(self) -> int:
        """How many unconfirmed files a checkpoint may name, so that both copies of it fit into half a segment."""
        return self._limits.segment_bytes // 4 // UNCONFIRMED_BYTES

    @property
    def max_late_bytes(self) -> int:
        """Of the intents that may wait for their rows (settle_late.py), so that both copies of a checkpoint have space for them
        in a quarter of a segment."""
        return self._limits.segment_bytes // 8

    @property
    def used_segments(self) -> int:
        return len(self._ring.used)

    @property
    def syncs(self) -> int:
        return self._writer.syncs

    async def rotate(self) -> None:
        """Continue in the next segment, so that the boundary covers everything written so far."""
        self._next += 1
        await self._add_and_wait(QueuedRecord(self._next - 1, b"", done=_new_future(), rotates=True))

    def unapplied_before(self, number: int) -> bool:
        return any(
            opened.number < number and opened.record.kind in CARRIES_REDO and not opened.applied
            for opened in self.open.values()
        )

    def give_up(self) -> None:
        """Wake a writer that waits for a free segment, after the disk has failed."""
        self._writer.wake()

    async def stop(self) -> None:
        """Write the queued records and end the thread."""
        self._write_lazy_now()
        await self._writer.stop()
        self._ring.close()

    def _build(
        self,
        record: Record,
        data: bytes = b"",
        *,
        copies: int = 1,
        then: Callable[[], None] | None = None,
        wait: bool = True,
    ) -> QueuedRecord:
        done = _new_future() if wait else None
        self._next += 1
        return QueuedRecord(self._next - 1, encode_record(record), data, copies, then, done)

    def _add(self, queued: QueuedRecord) -> None:
        """The writer is woken at the end of this turn of the event loop, so that all records of the turn are written together."""
        self._writer.add(queued)
        if not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_soon(self._wake)

    async def _add_and_wait(self, queued: QueuedRecord) -> None:
        assert queued.done is not None
        self._add(queued)
        await _logged(queued.done)

    def _wake(self) -> None:
        self._waking = False
        if self._closed:
            closed, self._closed = Closed(self._closed), []
            self._writer.add(self._build(closed, wait=False))
        self._writer.wake()

    def _write_lazily(self) -> None:
        if self._lazy is None:
            self._lazy = asyncio.get_running_loop().call_later(LAZY_WRITE_S, self._write_lazy_now)

    def _write_lazy_now(self) -> None:
        if self._lazy is not None:
            self._lazy.cancel()
            self._lazy = None
            self._wake()

    def _completed(self, done: list[QueuedRecord]) -> None:
        """Called in the loop by the writer's thread."""
        for queued in done:
            if queued.applied and queued.number in self.open:
                self.open[queued.number].applied = True
            if queued.done is None or queued.done.done():
                continue
            if queued.error is None:
                queued.done.set_result(queued.times)
            else:
                queued.done.set_exception(queued.error)


async def _logged(done: asyncio.Future[WriteTimes | None]) -> None:
    if not recording():
        await done
        return
    with span("wal.commit"):
        times = await done
        if times is not None:
            add_span("wal.write", times.began_ns, times.written_ns)
            add_span("wal.fsync", times.written_ns, times.synced_ns)
            add_span("wal.apply", times.synced_ns, time.time_ns())


def _mark_of(opened: OpenIntent, step: Step, attributes: bytes = b"", temp: str = "") -> Mark:
    intent = opened.record
    return Mark(step, opened.number, intent.kind, intent.file_id, attributes, temp, intent.replaced)


def _new_future() -> asyncio.Future[WriteTimes | None]:
    return asyncio.get_running_loop().create_future()

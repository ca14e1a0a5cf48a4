"""The log's own thread: takes all queued records, writes them with one write and syncs once.

The effect of a frame (a small file's own write and rename) is applied in this thread too, after the sync: so a small put needs
no thread hop of its own, and the next batch gathers meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from artstore.errors import ArtStoreError
from artstore.failpoints import failpoint

from .. import durable
from ..disk_health import DiskHealth
from .ring import Ring
from .segment import build_frame, frame_size

MAX_BATCH_BYTES = 8 << 20
REPORT_GROUP = 16
"""Completed records of a large batch are reported in groups: their operations continue while the others are still applied."""


@dataclass(frozen=True, slots=True)
class WriteTimes:
    """The times of one batch, in the nanoseconds of `time.time_ns`."""

    began_ns: int
    written_ns: int
    synced_ns: int


@dataclass(slots=True, eq=False)
class QueuedRecord:
    """A record in the queue. `done` is None when no operation waits for it."""

    number: int
    record: bytes
    data: bytes = b""
    copies: int = 1
    then: Callable[[], None] | None = None
    done: asyncio.Future[WriteTimes | None] | None = None
    frees: bool = False
    """A checkpoint: is written first and alone, and may take the last free segment."""
    rotates: bool = False
    """Not a record but a request to continue in the next segment; everything queued before it is in earlier ones."""
    applied: bool = False
    """`then` has run, with or without success."""
    error: Exception | None = None
    times: WriteTimes | None = None
    """When it was written and synced, for the trace."""

    @property
    def size_bytes(self) -> int:
        return self.copies * frame_size(self.record, self.data)


class Writer:
    """`add`, `wake` and `stop` are called in the event loop. There `completed` gets the records that are done, and `rotated` is
    set when a segment was filled."""

    def __init__(
        self,
        ring: Ring,
        batch_bytes: int,
        disk_health: DiskHealth,
        completed: Callable[[list[QueuedRecord]], None],
        rotated: asyncio.Event,
    ) -> None:
        self.syncs = 0
        self._ring = ring
        self._batch_bytes = min(MAX_BATCH_BYTES, batch_bytes)
        self._disk_health = disk_health
        self._completed = completed
        self._rotated = rotated
        self._queue: deque[QueuedRecord] = deque()
        self._batch: list[QueuedRecord] = []
        self._checkpoint: QueuedRecord | None = None
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._woken = False
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="wal", daemon=True)
        self._thread.start()

    def add(self, queued: QueuedRecord) -> None:
        """Records are written in the order of their numbers, a checkpoint before all others. Call `wake` afterwards."""
        if queued.frees:
            self._checkpoint = queued
        else:
            self._queue.append(queued)

    def wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._wakes.put(None)

    async def stop(self) -> None:
        """Write the queued records and end the thread."""
        if self._thread is not None:
            self._closing = True
            self.wake()
            await self._ended
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closing or self._queue or self._checkpoint is not None:
                self._sleep()
                while batch := self._take_batch():
                    self._batch = batch
                    self._write(batch)
                self._batch = []
        finally:
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        """No operation may wait for a thread that has ended, whatever the reason."""
        if not self._closing or self._batch:
            self._fail(self._disk_health.fail("the log's thread has ended"), self._batch)
        self._ended.set_result(None)

    def _sleep(self) -> None:
        self._wakes.get()
        self._woken = False

    def _take_batch(self) -> list[QueuedRecord]:
        """The queued records up to a size; a checkpoint and a rotation are batches of their own."""
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is not None:
            return [checkpoint]
        batch: list[QueuedRecord] = []
        size_bytes = 0
        while self._queue and not (batch and (batch[0].rotates or self._queue[0].rotates)):
            size_bytes += self._queue[0].size_bytes
            if batch and size_bytes > self._batch_bytes:
                break
            batch.append(self._queue.popleft())
        return batch

    def _write(self, batch: list[QueuedRecord]) -> None:
        try:
            self._disk_health.require_writable()
            if not self._has_room(batch):
                self._requeue(batch)
                self._sleep()  # until a checkpoint frees a segment, or the disk has failed
            elif batch[0].rotates:
                self._report(batch)
            else:
                self._flush(batch)
        except (OSError, ArtStoreError) as error:
            # It is unknown how much of the batch reached the disk: the intents stay open, and the next start finds out.
            self._fail(self._disk_health.fail(f"the log cannot be written: {error}"), batch)

    def _has_room(self, batch: list[QueuedRecord]) -> bool:
        """In this segment, or in the next one."""
        head, segment = batch[0], self._ring.current
        if head.rotates:
            if segment.end == segment.first:
                return True
        elif segment.fits(sum(queued.size_bytes for queued in batch)):
            return True
        # A checkpoint overtakes the queued records, whose lower numbers may be written to the same segment.
        first = min(head.number, self._queue[0].number) if self._queue else head.number
        advanced = self._ring.advance(first, last_one=head.frees or head.rotates)
        self._loop.call_soon_threadsafe(self._rotated.set)
        return advanced

    def _requeue(self, batch: list[QueuedRecord]) -> None:
        if batch[0].frees:
            self._checkpoint = batch[0]
        else:
            self._queue.extendleft(reversed(batch))

    def _flush(self, batch: list[QueuedRecord]) -> None:
        """One write, one sync, then the effects of the frames are applied to the files."""
        segment, began_ns = self._ring.current, time.time_ns()
        pieces: list[bytes] = []
        for queued in batch:
            for _ in range(queued.copies):
                pieces += build_frame(segment.nonce, queued.number, queued.record, queued.data)
        segment.position += durable.write_all(segment.fd, [b"".join(pieces)], segment.position)
        segment.end = batch[-1].number + 1
        written_ns = time.time_ns()
        failpoint("wal.written")
        if any(queued.done is not None for queued in batch):
            durable.sync_data(segment.fd)
            self.syncs += 1
            failpoint("wal.synced")
        times = WriteTimes(began_ns, written_ns, time.time_ns())
        for start in range(0, len(batch), REPORT_GROUP):
            some = batch[start : start + REPORT_GROUP]
            for queued in some:
                queued.times = times
                if queued.then is not None:
                    try:
                        queued.then()
                    except OSError as error:
                        queued.error = error
                    queued.applied = True
            self._report(some)

    def _fail(self, failed: ArtStoreError, batch: list[QueuedRecord]) -> None:
        failed_records = [*batch, *([self._checkpoint] if self._checkpoint is not None else [])]
        self._checkpoint = None
        while self._queue:
            failed_records.append(self._queue.popleft())
        for queued in failed_records:
            queued.error = failed
        self._report(failed_records)

    def _report(self, done: list[QueuedRecord]) -> None:
        self._loop.call_soon_threadsafe(self._completed, done)

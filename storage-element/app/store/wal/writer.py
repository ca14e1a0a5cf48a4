"""The log's own thread: takes all that waits, writes it at once and syncs it once.

What a frame makes durable (a small file's own write and rename) is done right here, after the sync: so a small put costs
no hop of its own, and the next batch gathers meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
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
TELL_AT_ONCE = 16
"""Those of a large batch that are done are told in groups: they go on while the others are still being made."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A record on its way to the disk. `done` is None for one that nobody waits for."""

    number: int
    record: bytes
    data: bytes = b""
    copies: int = 1
    then: Callable[[], None] | None = None
    done: asyncio.Future[None] | None = None
    frees: bool = False
    """A checkpoint: goes first and alone, and may take the last free segment."""
    rotates: bool = False
    """No record, but the wish to go on in the next segment; all before it stands in earlier ones."""
    applied: bool = False
    """`then` has run, whether it succeeded or not."""
    error: Exception | None = None

    @property
    def size_bytes(self) -> int:
        return self.copies * frame_size(self.record, self.data)


class Writer:
    """`add` and `stop` belong to the event loop, where `tell` hears what is done and `rotated` that a segment was filled."""

    def __init__(
        self,
        ring: Ring,
        batch_bytes: int,
        disk_health: DiskHealth,
        tell: Callable[[list[Waiting]], None],
        rotated: asyncio.Event,
    ) -> None:
        self.syncs = 0
        self._ring = ring
        self._batch_bytes = min(MAX_BATCH_BYTES, batch_bytes)
        self._disk_health = disk_health
        self._tell = tell
        self._rotated = rotated
        self._queue: deque[Waiting] = deque()
        self._batch: list[Waiting] = []
        self._checkpoint: Waiting | None = None
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._woken = False
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="wal", daemon=True)
        self._thread.start()

    def add(self, waiting: Waiting) -> None:
        """In the order of their numbers; a checkpoint goes before all. Call `wake` afterwards."""
        if waiting.frees:
            self._checkpoint = waiting
        else:
            self._queue.append(waiting)

    def wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._wakes.put(None)

    async def stop(self) -> None:
        """Write what is queued and end."""
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
        """Nobody may wait for a thread that is gone, whatever ended it."""
        if not self._closing or self._batch:
            self._fail(self._disk_health.fail("the log's thread has ended"), self._batch)
        self._ended.set_result(None)

    def _sleep(self) -> None:
        self._wakes.get()
        self._woken = False

    def _take_batch(self) -> list[Waiting]:
        """The waiting records up to a size; a checkpoint and a rotation go alone."""
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is not None:
            return [checkpoint]
        batch: list[Waiting] = []
        size_bytes = 0
        while self._queue and not (batch and (batch[0].rotates or self._queue[0].rotates)):
            size_bytes += self._queue[0].size_bytes
            if batch and size_bytes > self._batch_bytes:
                break
            batch.append(self._queue.popleft())
        return batch

    def _write(self, batch: list[Waiting]) -> None:
        try:
            self._disk_health.require_writable()
            if not self._has_room(batch):
                self._put_back(batch)
                self._sleep()  # until a checkpoint comes, or the element has failed
            elif batch[0].rotates:
                self._say(batch)
            else:
                self._flush(batch)
        except (OSError, ArtStoreError) as error:
            # What of the batch reached the disk nobody knows: it stays open, and the next start finds out.
            self._fail(self._disk_health.fail(f"the log: {error}"), batch)

    def _has_room(self, batch: list[Waiting]) -> bool:
        """In this segment, or in the next one."""
        head, segment = batch[0], self._ring.current
        if head.rotates:
            if segment.end == segment.first:
                return True
        elif segment.fits(sum(waiting.size_bytes for waiting in batch)):
            return True
        # A checkpoint has overtaken those in the queue: their lower numbers may come into the same segment.
        first = min(head.number, self._queue[0].number) if self._queue else head.number
        advanced = self._ring.advance(first, last_one=head.frees or head.rotates)
        self._loop.call_soon_threadsafe(self._rotated.set)
        return advanced

    def _put_back(self, batch: list[Waiting]) -> None:
        if batch[0].frees:
            self._checkpoint = batch[0]
        else:
            self._queue.extendleft(reversed(batch))

    def _flush(self, batch: list[Waiting]) -> None:
        """One write, one sync, then what the frames make durable is done to the files."""
        segment = self._ring.current
        pieces: list[bytes] = []
        for waiting in batch:
            for _ in range(waiting.copies):
                pieces += build_frame(segment.nonce, waiting.number, waiting.record, waiting.data)
        segment.position += durable.write_all(segment.fd, [b"".join(pieces)], segment.position)
        segment.end = batch[-1].number + 1
        failpoint("wal.written")
        if any(waiting.done is not None for waiting in batch):
            durable.sync_data(segment.fd)
            self.syncs += 1
            failpoint("wal.synced")
        for start in range(0, len(batch), TELL_AT_ONCE):
            some = batch[start : start + TELL_AT_ONCE]
            for waiting in some:
                if waiting.then is not None:
                    try:
                        waiting.then()
                    except OSError as error:
                        waiting.error = error
                    waiting.applied = True
            self._say(some)

    def _fail(self, failed: ArtStoreError, batch: list[Waiting]) -> None:
        failed_records = [*batch, *([self._checkpoint] if self._checkpoint is not None else [])]
        self._checkpoint = None
        while self._queue:
            failed_records.append(self._queue.popleft())
        for waiting in failed_records:
            waiting.error = failed
        self._say(failed_records)

    def _say(self, done: list[Waiting]) -> None:
        self._loop.call_soon_threadsafe(self._tell, done)

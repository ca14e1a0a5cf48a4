"""The write-ahead log: one writer, one sync for all who wait, segments that are used in turn, the oldest first.

What is begun becomes durable with its batch; its `then` (a small file's own write and rename) runs in the same thread hop
right after the sync, so a small put costs no hop of its own.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from artstore.errors import ArtStoreError
from artstore.points import hit

from . import durable
from .failing import NO_ROOM, Failing
from .records import CARRIES_REDO, Checkpoint, Intent, Mark, OpenIntent, Record, Step, encode_record
from .segments import SUFFIX, Segment, begin_segment, build_frame, create_segment, frame_size

MAX_BATCH_BYTES = 8 << 20
UNCONFIRMED_BYTES = 128
"""An unconfirmed file in a checkpoint: two ids of 36 characters, a time, msgpack's lengths; rounded up."""
NOTE_DELAY_S = 0.05
"""How long a mark that nobody waits for may stay in memory when nothing else is written."""
READY_SEGMENTS = 3
"""The one in use, the next one, and one that only a checkpoint may take: a full disk still has a log, and frees it."""


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class WalLimits:
    segment_bytes: int = 32 << 20
    max_segments: int = 16


@dataclass(slots=True, eq=False)
class Waiting:
    """A record on its way to the disk. `done` is None for a mark that nobody waits for."""

    number: int
    record: bytes
    data: bytes
    copies: int
    then: Callable[[], None] | None
    done: asyncio.Future[None] | None
    begun: Begun | None = None
    frees: bool = False
    """A checkpoint: goes first and alone, and may take the last free segment."""
    error: OSError | None = None

    @property
    def size_bytes(self) -> int:
        return self.copies * frame_size(self.record, self.data)


@dataclass(slots=True, eq=False)
class Begun:
    """An intent that is not closed yet. `applied` once its effect stands in the files (page cache at least) or has failed."""

    number: int
    intent: Intent
    durable: asyncio.Future[None]
    applied: bool = False
    aborted: bool = False
    decided: Mark | None = None

    def carried(self) -> OpenIntent:
        return OpenIntent(self.number, self.intent, self.aborted, self.decided)


class Wal:
    """`rotated` is set when a segment was filled: time for a checkpoint."""

    def __init__(self, folder: str, limits: WalLimits, failing: Failing) -> None:
        self.open: dict[int, Begun] = {}
        self.rotated = asyncio.Event()
        self.syncs = 0
        self._folder = folder
        self._limits = limits
        self._batch_bytes = min(MAX_BATCH_BYTES, limits.segment_bytes // 4)
        self._failing = failing
        self._queue: deque[Waiting] = deque()
        self._wake = asyncio.Event()
        self._freed = asyncio.Event()
        self._used: deque[Segment] = deque()
        self._free: deque[Segment] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="wal")
        self._writer: asyncio.Task[None] | None = None
        self._next = 1
        self._sequence = 0
        self._rotation: asyncio.Future[None] | None = None
        self._closing = False

    async def start(self, free: list[Segment], live: list[Segment], next_number: int, last_sequence: int) -> None:
        """`live` segments, oldest first, are kept until the next checkpoint: a crash before it reads them again."""
        self._next, self._sequence = next_number, last_sequence
        self._free.extend(free)
        self._used.extend(live)
        while len(self._free) + len(self._used) < READY_SEGMENTS or not self._free:
            self._free.append(await self._in_thread(self._create))
        await self._go_to_next(next_number, last_one=True)
        self.rotated.clear()
        self._writer = asyncio.create_task(self._write(), name="wal writer")

    def begin(
        self, intent: Intent, data: bytes = b"", *, then: Callable[[], None] | None = None, copies: int = 1
    ) -> Begun:
        """Queue an intent; `await begun.durable` raises ElementFailed, or `then`'s OSError.

        Two copies for what takes something away: one rotten byte must not bring a deleted file back.
        """
        waiting = self._add(intent, data, then, copies, wait=True)
        assert waiting.done is not None
        begun = waiting.begun = Begun(waiting.number, intent, waiting.done)
        self.open[begun.number] = begun
        return begun

    def adopt(self, number: int, carried: OpenIntent) -> Begun:
        """An intent of a former run that still waits for the catalog."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        begun = Begun(number, carried.intent, done, applied=True, aborted=carried.aborted, decided=carried.decided)
        self.open[number] = begun
        return begun

    async def mark(self, begun: Begun, step: Step, *, attributes: bytes = b"", temp: str = "") -> None:
        """Say that `begun` came to `step`, durably, twice."""
        mark = Mark(step, begun.number, begun.intent.kind, begun.intent.file_id, attributes, temp)
        if step is Step.ABORTED:
            begun.aborted = True
        if step is Step.DECIDED:
            begun.decided = mark
        await self._add_and_wait(mark, copies=2)

    def close_intent(self, begun: Begun) -> None:
        """Nothing is left to do for it. Rides with the next sync; lost in a crash, recovery finds the same out."""
        del self.open[begun.number]
        mark = Mark(Step.CLOSED, begun.number, begun.intent.kind, begun.intent.file_id)
        self._add(mark, b"", None, 1, wait=False)

    async def log_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Durable twice, then the segments below it may be used again."""
        waiting = self._build(checkpoint, b"", None, 2, wait=True)
        waiting.frees = True
        self._queue.appendleft(waiting)
        self._wake.set()
        self._freed.set()
        assert waiting.done is not None
        await waiting.done
        hit("checkpoint.logged")
        while len(self._used) > 1 and self._used[1].first <= checkpoint.redo_from:
            self._free.append(self._used.popleft())
        self._freed.set()

    @property
    def boundary(self) -> int:
        """The first number of the segment in use. All below it is written, and its `then` has run."""
        return self._used[-1].first

    @property
    def unconfirmed_room(self) -> int:
        """How many files a checkpoint may name as unconfirmed: both copies of it fit into half a segment."""
        return self._limits.segment_bytes // 4 // UNCONFIRMED_BYTES

    async def rotate(self) -> None:
        """Go on in the next segment, so that the boundary covers all that was written so far."""
        if self._used[-1].end > self._used[-1].first:
            self._rotation = asyncio.get_running_loop().create_future()
            self._wake.set()
            self._freed.set()
            await self._rotation

    def unapplied_before(self, number: int) -> bool:
        return any(
            begun.number < number and begun.intent.kind in CARRIES_REDO and not begun.applied
            for begun in self.open.values()
        )

    def give_up(self) -> None:
        """Wake a writer that waits for a free segment, after the element has failed."""
        self._freed.set()

    async def stop(self) -> None:
        """Write what is queued and end."""
        self._closing = True
        self._wake.set()
        if self._writer is not None:
            await self._writer
        self._thread.shutdown()
        for segment in (*self._used, *self._free):
            os.close(segment.fd)

    @property
    def used_segments(self) -> int:
        return len(self._used)

    def _add(self, record: Record, data: bytes, then: Callable[[], None] | None, copies: int, *, wait: bool) -> Waiting:
        waiting = self._build(record, data, then, copies, wait=wait)
        self._queue.append(waiting)
        if wait:
            self._wake.set()
        else:
            asyncio.get_running_loop().call_later(NOTE_DELAY_S, self._wake.set)
        return waiting

    def _build(
        self, record: Record, data: bytes, then: Callable[[], None] | None, copies: int, *, wait: bool
    ) -> Waiting:
        done = asyncio.get_running_loop().create_future() if wait else None
        self._next += 1
        return Waiting(self._next - 1, encode_record(record), data, copies, then, done)

    async def _add_and_wait(self, record: Record, *, copies: int) -> None:
        done = self._add(record, b"", None, copies, wait=True).done
        assert done is not None
        await done

    async def _write(self) -> None:
        """The one writer. Ends when `stop` was called and nothing is queued."""
        while not (self._closing and not self._queue):
            await self._wake.wait()
            self._wake.clear()
            while self._queue or self._rotation:
                await self._write_batch()

    async def _write_batch(self) -> None:
        batch: list[Waiting] = []
        try:
            self._failing.require_sound()
            if self._rotation:
                while not await self._go_to_next(self._first_unwritten(), last_one=True):
                    pass
                self._end_rotation(None)
            batch = self._take_batch()
            while batch and not self._used[-1].fits(sum(waiting.size_bytes for waiting in batch)):
                first = min(batch[0].number, self._first_unwritten())
                if not await self._go_to_next(first, last_one=batch[0].frees):
                    self._queue.extendleft(reversed(batch))
                    batch = self._take_batch()
            if batch:
                await self._in_thread(self._flush, batch)
        except (OSError, ArtStoreError) as error:
            # What of the batch reached the disk nobody knows: it stays open, and the next start finds out.
            failed = self._failing.fail(f"the log: {error}")
            for waiting in (*batch, *self._queue):
                if waiting.done is not None and not waiting.done.done():
                    waiting.done.set_exception(failed)
            self._queue.clear()
            self._end_rotation(failed)
            return
        for waiting in batch:
            _tell(waiting)

    def _first_unwritten(self) -> int:
        return min((waiting.number for waiting in self._queue), default=self._next)

    def _take_batch(self) -> list[Waiting]:
        """The waiting records up to a size; a checkpoint goes alone."""
        batch: list[Waiting] = []
        size_bytes = 0
        while self._queue and not (batch and (batch[0].frees or self._queue[0].frees)):
            size_bytes += self._queue[0].size_bytes
            if batch and size_bytes > self._batch_bytes:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _go_to_next(self, first: int, *, last_one: bool) -> bool:
        """False when there was none to take, after waiting: something more urgent may have come meanwhile."""
        if len(self._free) < (1 if last_one else 2):
            await self._make_segment()
        if len(self._free) < (1 if last_one else 2):
            self.rotated.set()
            self._freed.clear()
            await self._freed.wait()
            self._failing.require_sound()
            return False
        segment = self._free.popleft()
        self._sequence += 1
        await self._in_thread(begin_segment, segment, self._sequence, first)
        self._used.append(segment)
        self.rotated.set()
        return True

    async def _make_segment(self) -> None:
        """One more, unless the limit or the disk forbids it: then the next checkpoint gives one back."""
        if len(self._used) + len(self._free) >= self._limits.max_segments:
            return
        try:
            self._free.append(await self._in_thread(self._create))
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise

    def _end_rotation(self, failed: ArtStoreError | None) -> None:
        if self._rotation is None:
            return
        if failed is None:
            self._rotation.set_result(None)
        else:
            self._rotation.set_exception(failed)
        self._rotation = None

    def _create(self) -> Segment:
        names = {os.path.basename(segment.path) for segment in (*self._used, *self._free)}
        number = next(n for n in range(1, len(names) + 2) if f"{n:08d}{SUFFIX}" not in names)
        return create_segment(f"{self._folder}/{number:08d}{SUFFIX}", self._limits.segment_bytes)

    def _flush(self, batch: list[Waiting]) -> None:
        """In the writer's thread: one write, one sync, then what the frames make durable is done to the files."""
        segment = self._used[-1]
        buffers: list[bytes] = []
        for waiting in batch:
            for _ in range(waiting.copies):
                buffers += build_frame(segment.nonce, waiting.number, waiting.record, waiting.data)
        segment.position += durable.write_all(segment.fd, buffers, segment.position)
        segment.end = batch[-1].number + 1
        hit("wal.written")
        if any(waiting.done is not None for waiting in batch):
            durable.sync_data(segment.fd)
            self.syncs += 1
            hit("wal.synced")
        for waiting in batch:
            if waiting.then is not None:
                try:
                    waiting.then()
                except OSError as error:
                    waiting.error = error

    async def _in_thread(self, function: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def _tell(waiting: Waiting) -> None:
    if waiting.begun is not None and waiting.then is not None:
        waiting.begun.applied = True
    if waiting.done is None or waiting.done.done():
        return
    if waiting.error is None:
        waiting.done.set_result(None)
    else:
        waiting.done.set_exception(waiting.error)

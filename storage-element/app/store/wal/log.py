"""The write-ahead log as the verbs use it: intents that are open, marks on them, and checkpoints that let the past go.

What is begun becomes durable with all else that waits at that moment, by one sync (writer.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from artstore.failpoints import failpoint

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
from .writer import Waiting, Writer

UNCONFIRMED_BYTES = 128
"""An unconfirmed file in a checkpoint: two ids of 36 characters, a time, msgpack's lengths; rounded up."""
CONFIRMED_AT_ONCE = 256
"""Files in one Confirmed record: both copies of it fit into the smallest segment many times over."""
NOTE_DELAY_S = 0.05
"""How long a mark that nobody waits for may stay in memory when nothing else is written."""


@dataclass(slots=True, eq=False)
class OpenIntent:
    """An intent that is not closed yet. `applied` once its effect stands in the files (page cache at least) or has failed."""

    number: int
    intent: Intent
    durable: asyncio.Future[None]
    applied: bool = False
    aborted: bool = False
    decided: Mark | None = None
    confirmed: bool = False
    undone: bytes = b""

    def carried(self) -> CarriedIntent:
        return CarriedIntent(self.number, self.intent, self.aborted, self.decided, self.confirmed, self.undone)


class Wal:
    """`rotated` is set when a segment was filled: time for a checkpoint."""

    def __init__(self, folder: str, limits: WalLimits, disk_health: DiskHealth) -> None:
        self.open: dict[int, OpenIntent] = {}
        self.rotated = asyncio.Event()
        self._limits = limits
        self._ring = Ring(folder, limits)
        self._writer = Writer(self._ring, limits.segment_bytes // 4, disk_health, self._tell, self.rotated)
        self._next = 1
        self._closed: list[int] = []
        self._waking = False
        self._noting: asyncio.TimerHandle | None = None

    async def start(self, free: list[Segment], live: list[Segment], next_number: int, last_sequence: int) -> None:
        """`live` segments, oldest first, are kept until the next checkpoint: a crash before it reads them again."""
        self._next = next_number
        await asyncio.to_thread(self._ring.start, free, live, next_number, last_sequence)
        self._writer.start()

    def begin(
        self, intent: Intent, data: bytes = b"", *, then: Callable[[], None] | None = None, copies: int = 1
    ) -> OpenIntent:
        """Queue an intent; `await begun.durable` raises ElementFailed, or `then`'s OSError.

        Two copies for what takes something away: one rotten byte must not bring a deleted file back.
        """
        waiting = self._build(intent, data, copies=copies, then=then)
        assert waiting.done is not None
        begun = self.open[waiting.number] = OpenIntent(waiting.number, intent, waiting.done)
        self._add(waiting)
        return begun

    def adopt(self, number: int, carried: CarriedIntent) -> OpenIntent:
        """An intent of a former run that still waits for the catalog."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        begun = OpenIntent(
            number,
            carried.intent,
            done,
            applied=True,
            aborted=carried.aborted,
            decided=carried.decided,
            confirmed=carried.confirmed,
            undone=carried.undone,
        )
        self.open[number] = begun
        return begun

    async def mark(self, begun: OpenIntent, step: Step, *, attributes: bytes = b"", temp: str = "") -> None:
        """Say that `begun` came to `step`, durably, twice."""
        mark = _mark_of(begun, step, attributes, temp or begun.intent.temp)
        if step is Step.ABORTED:
            begun.aborted, begun.undone = True, attributes
        if step is Step.DECIDED:
            begun.decided = mark
        await self._add_and_wait(self._build(mark, copies=2))

    def close_intent(self, begun: OpenIntent) -> None:
        """Nothing is left to do for it. Rides with the next sync; lost in a crash, recovery finds the same out.

        A delete is closed by a mark of its own, a third witness beside its two intents; others share a record.
        """
        del self.open[begun.number]
        if begun.intent.kind is Kind.DELETE and not begun.aborted:
            self._writer.add(self._build(_mark_of(begun, Step.CLOSED), wait=False))
        else:
            self._closed.append(begun.number)
        self._write_soon()

    def confirm(self, file_ids: Sequence[str]) -> None:
        """Log that their sagas were committed, twice: one rotten byte must not make them removable again.

        Rides with the next sync. After a power cut that lost it, the catalog is asked again.
        """
        for start in range(0, len(file_ids), CONFIRMED_AT_ONCE):
            record = Confirmed(list(file_ids[start : start + CONFIRMED_AT_ONCE]))
            self._writer.add(self._build(record, copies=2, wait=False))
        self._write_soon()

    async def log_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Durable twice, then the segments below it may be used again."""

        def let_go() -> None:
            failpoint("checkpoint.logged")
            self._ring.free_below(checkpoint.redo_from)

        waiting = self._build(checkpoint, copies=2, then=let_go)
        waiting.frees = True
        await self._add_and_wait(waiting)

    @property
    def boundary(self) -> int:
        """The first number of the segment in use. All below it is written, and its `then` has run."""
        return self._ring.current.first

    @property
    def unconfirmed_room(self) -> int:
        """How many files a checkpoint may name as unconfirmed: both copies of it fit into half a segment."""
        return self._limits.segment_bytes // 4 // UNCONFIRMED_BYTES

    @property
    def used_segments(self) -> int:
        return len(self._ring.used)

    @property
    def syncs(self) -> int:
        return self._writer.syncs

    async def rotate(self) -> None:
        """Go on in the next segment, so that the boundary covers all that was written so far."""
        self._next += 1
        await self._add_and_wait(Waiting(self._next - 1, b"", done=_new_future(), rotates=True))

    def unapplied_before(self, number: int) -> bool:
        return any(
            begun.number < number and begun.intent.kind in CARRIES_REDO and not begun.applied
            for begun in self.open.values()
        )

    def give_up(self) -> None:
        """Wake a writer that waits for a free segment, after the element has failed."""
        self._writer.wake()

    async def stop(self) -> None:
        """Write what is queued and end."""
        self._note()
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
    ) -> Waiting:
        done = _new_future() if wait else None
        self._next += 1
        return Waiting(self._next - 1, encode_record(record), data, copies, then, done)

    def _add(self, waiting: Waiting) -> None:
        """The writer is woken at the end of this turn of the loop, so that all who come in it go together."""
        self._writer.add(waiting)
        if not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_soon(self._wake)

    async def _add_and_wait(self, waiting: Waiting) -> None:
        assert waiting.done is not None
        self._add(waiting)
        await waiting.done

    def _wake(self) -> None:
        self._waking = False
        if self._closed:
            closed, self._closed = Closed(self._closed), []
            self._writer.add(self._build(closed, wait=False))
        self._writer.wake()

    def _write_soon(self) -> None:
        if self._noting is None:
            self._noting = asyncio.get_running_loop().call_later(NOTE_DELAY_S, self._note)

    def _note(self) -> None:
        if self._noting is not None:
            self._noting.cancel()
            self._noting = None
            self._wake()

    def _tell(self, done: list[Waiting]) -> None:
        """Called in the loop by the writer's thread."""
        for waiting in done:
            if waiting.applied and waiting.number in self.open:
                self.open[waiting.number].applied = True
            if waiting.done is None or waiting.done.done():
                continue
            if waiting.error is None:
                waiting.done.set_result(None)
            else:
                waiting.done.set_exception(waiting.error)


def _mark_of(begun: OpenIntent, step: Step, attributes: bytes = b"", temp: str = "") -> Mark:
    intent = begun.intent
    return Mark(step, begun.number, intent.kind, intent.file_id, attributes, temp, intent.stood)


def _new_future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()

"""What the log says about each file, folded to the last word. Pure: reads frames, touches nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from ..durable import Identity
from .records import PUTS, CarriedIntent, Checkpoint, Closed, Confirmed, Intent, Kind, Mark, Step, Unconfirmed
from .segment import Frame, SegmentRead, Unreadable

SMALL_BYTES = frozenset({Kind.PUT_SMALL, Kind.REWRITE_SMALL})


UNKNOWN = b""
"""attr.json of an aborted put, where an older version did not log it."""


class Summed(msgspec.Struct):
    """As much of attr.json as says which bytes it describes."""

    checksum: str


@dataclass(frozen=True, slots=True)
class Gone:
    """What the log took away under an id; a file that came there by other means stays."""

    deleted: bool = False
    """The files in Replay.known; without any, whatever is there."""
    undone: tuple[bytes, ...] = ()
    """attr.json of puts that were aborted, or UNKNOWN."""


@dataclass(slots=True)
class Wanted:
    """How a file must look. `attributes` None: not there. `data` None: its bytes are durable without the log."""

    attributes: bytes | None
    data: memoryview | None = None
    gone: Gone = Gone()


@dataclass(slots=True)
class Operation:
    number: int
    intent: Intent
    data: memoryview | None = None
    decided: Mark | None = None
    aborted: bool = False
    closed: bool = False
    carried: bool = False
    """Came over a checkpoint: its effects were durable then, its bytes are no longer in the log."""
    confirmed: bool = False
    undone: bytes = UNKNOWN
    """attr.json of an aborted put, as far as the log says."""

    def to_carry(self) -> CarriedIntent:
        return CarriedIntent(self.number, self.intent, self.aborted, self.decided, self.confirmed, self.undone)


@dataclass(slots=True)
class Replay:
    """The log, understood."""

    wanted: dict[str, Wanted] = field(default_factory=dict)
    unresolved: list[Operation] = field(default_factory=list)
    """Not closed, in the order they were begun."""
    unconfirmed: dict[str, Unconfirmed] = field(default_factory=dict)
    known: dict[str, set[Identity]] = field(default_factory=dict)
    """Per file what its operations replaced or deleted: everything that a crash may have left of its past."""
    here: Identity | None = None
    """The folder that the log was written in."""
    superseded: dict[str, int] = field(default_factory=dict)
    """Per file the number of its last put that was not aborted: an abort before it has nothing left to undo."""
    unreadable: list[Unreadable] = field(default_factory=list)
    files: int = 0
    bytes_used: int = 0
    exact: bool = False
    """Whether `files` and `bytes_used` say what is on the disk now: nothing was begun after the checkpoint that has them."""
    redo_from: int = 0
    next_number: int = 1
    last_sequence: int = 0


def understand(segments: list[SegmentRead], now_s: float) -> Replay:
    """`segments` in any order. Frames below the last checkpoint's `redo_from` say nothing any more."""
    frames = sorted((frame for segment in segments for frame in segment.frames), key=lambda frame: frame.number)
    replay = Replay(unreadable=[found for segment in segments for found in segment.unreadable])
    replay.last_sequence = max((segment.sequence for segment in segments), default=0)
    replay.next_number = frames[-1].number + 1 if frames else 1
    operations: dict[int, Operation] = {}
    confirmed: dict[int, Confirmed] = {}
    replay.redo_from = _start_from_checkpoint(frames, replay, operations)
    replay.exact = replay.exact and not operations
    for frame in frames:
        if frame.number >= replay.redo_from:
            if isinstance(frame.record, Confirmed):
                confirmed[frame.number] = frame.record
            else:
                _take(frame, operations)
            replay.exact = replay.exact and not isinstance(frame.record, Intent)
    for number in sorted(operations.keys() | confirmed.keys()):
        if number in operations:
            _fold(operations[number], replay, now_s)
        else:
            _forget_sagas(confirmed[number], operations, replay)
    return replay


def _forget_sagas(record: Confirmed, operations: dict[int, Operation], replay: Replay) -> None:
    """A put of the same id that came later has a higher number, and its saga is still to be confirmed."""
    for file_id in record.file_ids:
        replay.unconfirmed.pop(file_id, None)


def _start_from_checkpoint(frames: list[Frame], replay: Replay, operations: dict[int, Operation]) -> int:
    checkpoints = [frame.record for frame in frames if isinstance(frame.record, Checkpoint)]
    if not checkpoints:
        return 0
    last = checkpoints[-1]
    replay.files, replay.bytes_used, replay.exact = last.files, last.bytes_used, last.exact
    replay.here = last.here
    replay.unconfirmed.update(last.unconfirmed)
    for carried in last.still_open:
        operations[carried.number] = Operation(
            carried.number,
            carried.intent,
            decided=carried.decided,
            aborted=carried.aborted,
            carried=True,
            confirmed=carried.confirmed,
            undone=carried.undone or carried.intent.attributes,
        )
    return last.redo_from


def _take(frame: Frame, operations: dict[int, Operation]) -> None:
    record = frame.record
    if isinstance(record, Intent):
        operations.setdefault(frame.number, Operation(frame.number, record, frame.data))
    elif isinstance(record, Closed):
        for number in record.numbers:
            if number in operations:
                operations[number].closed = True
    elif isinstance(record, Mark):
        operation = operations.get(record.of)
        if operation is None and _is_believed_alone(record):
            intent = Intent(
                record.kind, record.file_id, attributes=record.attributes, temp=record.temp, stood=record.stood
            )
            operation = operations[record.of] = Operation(record.of, intent)
        if operation is None:
            return
        if record.step is Step.DECIDED:
            operation.decided = record
        elif record.step is Step.ABORTED:
            operation.aborted = True
            operation.undone = record.attributes or operation.intent.attributes
        else:
            operation.closed = True


def _is_believed_alone(mark: Mark) -> bool:
    """Marks that count without their intent, which rotted, or which lies below the checkpoint: an operation that ended while
    the checkpoint was being made is not carried by it, and what it undid may not have been durable yet."""
    return mark.step is Step.DECIDED or mark.kind is Kind.DELETE or (mark.step is Step.ABORTED and mark.kind in PUTS)


def _fold(operation: Operation, replay: Replay, now_s: float) -> None:
    """One operation after the other, in the order of the log; later ones win."""
    intent = operation.intent
    file_id = intent.file_id
    if not operation.closed:
        replay.unresolved.append(operation)
    replay.known.setdefault(file_id, set()).update(intent.stood)
    if operation.aborted:
        _fold_aborted(operation, replay)
        return
    if intent.kind in PUTS:
        replay.superseded[file_id] = operation.number
    if intent.kind in PUTS and intent.saga_id is not None and not operation.confirmed:
        replay.unconfirmed[file_id] = Unconfirmed(intent.saga_id, now_s)
    if intent.kind is Kind.DELETE:
        replay.unconfirmed.pop(file_id, None)
        replay.wanted[file_id] = Wanted(None, gone=Gone(deleted=True))
    elif intent.kind is Kind.PUT_LARGE or operation.decided is not None or operation.carried:
        # What synced itself, or was synced by a checkpoint: the disk has it, and earlier records no longer count.
        replay.wanted.pop(file_id, None)
    elif intent.kind in SMALL_BYTES:
        replay.wanted[file_id] = Wanted(intent.attributes, operation.data)
    elif intent.kind is Kind.PATCH:
        before = replay.wanted.get(file_id)
        same = before is not None and _checksum(before.attributes) == _checksum(intent.attributes)
        replay.wanted[file_id] = Wanted(intent.attributes, before.data if before is not None and same else None)


def _fold_aborted(operation: Operation, replay: Replay) -> None:
    """An aborted put left nothing, and what an earlier delete of the id took away stays away. An aborted update left what
    was before."""
    if operation.intent.kind in PUTS:
        file_id = operation.intent.file_id
        replay.unconfirmed.pop(file_id, None)
        before = replay.wanted.get(file_id)
        gone = before.gone if before is not None and before.attributes is None else Gone()
        replay.wanted[file_id] = Wanted(None, gone=Gone(gone.deleted, (*gone.undone, operation.undone)))


def _checksum(attributes: bytes | None) -> str | None:
    """Of bytes that were put back by hand a later patch has another one than the frame before it."""
    try:
        return msgspec.json.decode(attributes or b"", type=Summed).checksum
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None

"""Replay: read the log after a start, and fold its records to the last state of each file. Changes nothing on the disk."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import assert_never

import msgspec

from ..durable import FileIdentity
from .records import PUTS, CarriedIntent, Checkpoint, Closed, Confirmed, Intent, Kind, Mark, Step, Unconfirmed
from .segment import SUFFIX, Frame, Segment, SegmentRead, Unreadable, open_segment, read_segment

SEGMENT_NAME = re.compile(r"\d{8}" + re.escape(SUFFIX))
CARRY_BYTES = frozenset({Kind.PUT_SMALL, Kind.REWRITE_SMALL})
UNKNOWN = b""
"""Stands for the attr.json of an aborted put where an older version did not log it."""


class ChecksumOnly(msgspec.Struct):
    """The part of attr.json that identifies its bytes."""

    checksum: str


@dataclass(frozen=True, slots=True)
class Removed:
    """The files that operations removed under an id. A file that a person put there since stays."""

    deleted: bool = False
    """The files in Replay.replaced; if it names none, any file."""
    undone: tuple[bytes, ...] = ()
    """attr.json of puts that were aborted, or UNKNOWN."""


@dataclass(slots=True)
class Wanted:
    """The state that a file must have. `attributes` None: removed. `data` None: its bytes are durable without the log."""

    attributes: bytes | None
    data: memoryview | None = None
    removed: Removed = Removed()


@dataclass(slots=True)
class LoggedOperation:
    """An operation as the log records it."""

    number: int
    intent: Intent
    data: memoryview | None = None
    decided: Mark | None = None
    aborted: bool = False
    closed: bool = False
    carried: bool = False
    """Carried over a checkpoint: its effects were durable then, and its bytes are no longer in the log."""
    confirmed: bool = False
    undone: bytes = UNKNOWN
    """attr.json of an aborted put, as far as the log says."""
    overtaken: bool = False
    """A later operation of the same file began. It began only after this one had been completed or undone."""
    replaced: set[FileIdentity] = field(default_factory=set)
    """As Replay.replaced of the file."""

    def to_carry(self) -> CarriedIntent:
        return CarriedIntent(self.number, self.intent, self.aborted, self.decided, self.confirmed, self.undone)


@dataclass(slots=True)
class Replay:
    """The state that the log describes."""

    wanted: dict[str, Wanted] = field(default_factory=dict)
    unresolved: list[LoggedOperation] = field(default_factory=list)
    """Operations that are not closed, in the order in which they began."""
    unconfirmed: dict[str, Unconfirmed] = field(default_factory=dict)
    replaced: dict[str, set[FileIdentity]] = field(default_factory=dict)
    """Per file the identities that its operations replaced or deleted: everything that a crash may have left of its past."""
    log_folder: FileIdentity | None = None
    """The folder in which the log was written."""
    unreadable: list[Unreadable] = field(default_factory=list)
    files: int = 0
    bytes_used: int = 0
    exact: bool = False
    """True if `files` and `bytes_used` are right now: no operation began after the checkpoint that has them."""
    redo_from: int = 0
    next_number: int = 1
    last_sequence: int = 0


def fold(segments: list[SegmentRead], now_s: float) -> Replay:
    """`segments` in any order. Frames below the last checkpoint's `redo_from` are ignored."""
    frames = sorted((frame for segment in segments for frame in segment.frames), key=lambda frame: frame.number)
    replay = Replay(unreadable=[found for segment in segments for found in segment.unreadable])
    replay.last_sequence = max((segment.sequence for segment in segments), default=0)
    replay.next_number = frames[-1].number + 1 if frames else 1
    operations: dict[int, LoggedOperation] = {}
    confirmed: dict[int, Confirmed] = {}
    replay.redo_from = _start_from_checkpoint(frames, replay, operations)
    replay.exact = replay.exact and not operations
    for frame in frames:
        if frame.number >= replay.redo_from:
            if isinstance(frame.record, Confirmed):
                confirmed[frame.number] = frame.record
            else:
                _add_frame(frame, operations)
            replay.exact = replay.exact and not isinstance(frame.record, Intent)
    for number in sorted(operations.keys() | confirmed.keys()):
        if number in operations:
            _fold_operation(operations[number], replay, now_s)
        else:
            # A later put of the same id has a higher number, and its saga is still to be confirmed.
            for file_id in confirmed[number].file_ids:
                replay.unconfirmed.pop(file_id, None)
    last = {operations[number].intent.file_id: number for number in sorted(operations)}
    for operation in replay.unresolved:
        operation.overtaken = operation.number < last[operation.intent.file_id]
        operation.replaced = replay.replaced[operation.intent.file_id]
    return replay


def _start_from_checkpoint(frames: list[Frame], replay: Replay, operations: dict[int, LoggedOperation]) -> int:
    checkpoints = [frame.record for frame in frames if isinstance(frame.record, Checkpoint)]
    if not checkpoints:
        return 0
    last = checkpoints[-1]
    replay.files, replay.bytes_used, replay.exact = last.files, last.bytes_used, last.exact
    replay.log_folder = last.log_folder
    replay.unconfirmed.update(last.unconfirmed)
    for carried in last.still_open:
        operations[carried.number] = LoggedOperation(
            carried.number,
            carried.intent,
            decided=carried.decided,
            aborted=carried.aborted,
            carried=True,
            confirmed=carried.confirmed,
            undone=carried.undone or carried.intent.attributes,
        )
    return last.redo_from


def _add_frame(frame: Frame, operations: dict[int, LoggedOperation]) -> None:
    record = frame.record
    if isinstance(record, Intent):
        operations.setdefault(frame.number, LoggedOperation(frame.number, record, frame.data))
    elif isinstance(record, Closed):
        for number in record.numbers:
            if number in operations:
                operations[number].closed = True
    elif isinstance(record, Mark):
        operation = operations.get(record.of)
        if operation is None and _counts_alone(record):
            intent = Intent(
                record.kind, record.file_id, attributes=record.attributes, temp=record.temp, replaced=record.replaced
            )
            operation = operations[record.of] = LoggedOperation(record.of, intent)
        if operation is None:
            return
        if record.step is Step.DECIDED:
            operation.decided = record
        elif record.step is Step.ABORTED:
            operation.aborted = True
            operation.undone = record.attributes or operation.intent.attributes
        else:
            operation.closed = True
    elif not isinstance(record, Checkpoint | Confirmed):  # these were folded before
        assert_never(record)


def _counts_alone(mark: Mark) -> bool:
    """True if the mark counts without its intent, which may be damaged, or below the checkpoint.

    An operation that ended while the checkpoint was being made is not carried by it, and its undo may not have been durable.
    """
    return mark.step is Step.DECIDED or mark.kind is Kind.DELETE or (mark.step is Step.ABORTED and mark.kind in PUTS)


def _fold_operation(operation: LoggedOperation, replay: Replay, now_s: float) -> None:
    """In the order of the log; a later operation overrides an earlier one."""
    intent = operation.intent
    file_id = intent.file_id
    if not operation.closed:
        replay.unresolved.append(operation)
    replay.replaced.setdefault(file_id, set()).update(intent.replaced)
    if operation.aborted:
        _fold_aborted(operation, replay)
        return
    if intent.kind in PUTS and intent.saga_id is not None and not operation.confirmed:
        replay.unconfirmed[file_id] = Unconfirmed(intent.saga_id, now_s)
    if intent.kind is Kind.DELETE:
        replay.unconfirmed.pop(file_id, None)
        replay.wanted[file_id] = Wanted(None, removed=Removed(deleted=True))
    elif intent.kind is Kind.PUT_LARGE or operation.decided is not None or operation.carried:
        # Synced by the operation, or by a checkpoint: the disk has it, and earlier records no longer count.
        replay.wanted.pop(file_id, None)
    elif intent.kind in CARRY_BYTES:
        replay.wanted[file_id] = Wanted(intent.attributes, operation.data)
    elif intent.kind is Kind.PATCH:
        before = replay.wanted.get(file_id)
        same = before is not None and _checksum(before.attributes) == _checksum(intent.attributes)
        replay.wanted[file_id] = Wanted(intent.attributes, before.data if before is not None and same else None)


def _fold_aborted(operation: LoggedOperation, replay: Replay) -> None:
    """An aborted put left nothing, and files that an earlier delete of the id removed stay removed. An aborted update left the
    earlier revision."""
    if operation.intent.kind in PUTS:
        file_id = operation.intent.file_id
        replay.unconfirmed.pop(file_id, None)
        before = replay.wanted.get(file_id)
        removed = before.removed if before is not None and before.attributes is None else Removed()
        replay.wanted[file_id] = Wanted(None, removed=Removed(removed.deleted, (*removed.undone, operation.undone)))


def _checksum(attributes: bytes | None) -> str | None:
    """After a person restored other bytes, a later patch has another checksum than the frame before it."""
    try:
        return msgspec.json.decode(attributes or b"", type=ChecksumOnly).checksum
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class Log:
    """The log on the disk. Segments of `live`, oldest first, are needed again if the recovery is interrupted; `free` are not."""

    replay: Replay
    free: list[Segment]
    live: list[Segment]


def read_log(folder: str, now_s: float) -> Log:
    """Blocks. Raises OSError."""
    read: list[tuple[int, str, SegmentRead | None]] = []
    for name in sorted(os.listdir(folder)):
        if SEGMENT_NAME.fullmatch(name):
            path = f"{folder}/{name}"
            segment = read_segment(path)
            read.append((segment.sequence if segment is not None else 0, path, segment))
    read.sort(key=lambda one: one[0])
    replay = fold([segment for _, _, segment in read if segment is not None], now_s)
    log = Log(replay, [], [])
    for sequence, path, segment in read:
        opened = open_segment(path)
        if segment is not None and any(frame.number >= replay.redo_from for frame in segment.frames):
            opened.sequence, opened.first, opened.end = sequence, segment.first, segment.frames[-1].number + 1
            log.live.append(opened)
        else:
            log.free.append(opened)
    return log

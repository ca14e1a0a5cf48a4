"""The records of the log. An intent opens an operation, marks record its progress, a checkpoint frees everything before it.

Tags 1 to 5 are taken; a tag is never used again.
"""

from __future__ import annotations

import enum

import msgspec

from ..durable import FileIdentity


class Kind(enum.IntEnum):
    PUT_SMALL = 1
    """Carries bytes and attributes: replay makes the file again."""
    PUT_LARGE = 2
    """Only the intent; the files are synced by the put, and attr.json is the commit point."""
    PATCH = 3
    """Carries the new attributes; the bytes stay."""
    REWRITE_SMALL = 4
    """Carries new bytes and attributes of a file that exists."""
    REWRITE_LARGE = 5
    """Only the intent; a mark decides it, names the temp and carries the attributes."""
    DELETE = 6


class Step(enum.IntEnum):
    DECIDED = 1
    """The new bytes of a large rewrite are durable in its temp: from here it goes forward."""
    ABORTED = 2
    """The effects of the operation were undone: replay must not repeat them."""
    CLOSED = 3
    """Nothing is left to do. Not synced: if it is lost, recovery finds the same on the disk."""


class Intent(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """`attributes` is the new attr.json, where the record carries one. The frame may carry the file's bytes beside it."""

    kind: Kind
    file_id: str
    saga_id: str | None = None
    attributes: bytes = b""
    temp: str = ""
    revision: int = 1
    """The new revision; for a delete the one after the file's last."""
    replaced: tuple[FileIdentity, ...] = ()
    """The attr.json and data that it replaces or deletes. Replay touches no others: a person may have restored them."""
    account: str = ""
    """The account that updates or deletes, for the audit log; empty: nothing is recorded."""
    size_bytes: int = 0
    """The size of the file that is deleted, for the audit log."""


class Mark(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """The progress of the intent with the number `of`. Repeats its kind, id, temp and `replaced`, so that a mark counts also
    without its intent, which may be damaged or below the last checkpoint. `attributes` of an aborted put is its attr.json, or
    UNPUBLISHED when it had none yet."""

    step: Step
    of: int
    kind: Kind
    file_id: str
    attributes: bytes = b""
    temp: str = ""
    replaced: tuple[FileIdentity, ...] = ()


class Closed(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """CLOSED for many intents at once. If it is lost, recovery finds the same on the disk."""

    numbers: list[int]


class Confirmed(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Files whose sagas were seen committed: no compensation may remove them any more."""

    file_ids: list[str]


class CarriedIntent(msgspec.Struct, frozen=True, array_like=True):
    """An open intent carried over a checkpoint, without the bytes of its frame."""

    number: int
    intent: Intent
    aborted: bool = False
    decided: Mark | None = None
    confirmed: bool = False
    """A put whose saga was seen committed before the intent could be closed."""
    undone: bytes = b""
    """attr.json of an aborted put."""


class Unconfirmed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The saga that put a file and has not been seen committed, and when it did (Unix seconds)."""

    saga_id: str
    since_s: float


class Checkpoint(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """All effects of records below `redo_from` are durable in the files themselves."""

    redo_from: int
    still_open: list[CarriedIntent]
    unconfirmed: dict[str, Unconfirmed]
    files: int
    bytes_used: int
    exact: bool = True
    """True if `files` and `bytes_used` were exact."""
    log_folder: FileIdentity | None = None
    """The identity of the folder wal/. In a copy of the root it differs, and then no `replaced` is valid."""


Record = Intent | Mark | Checkpoint | Closed | Confirmed

UNPUBLISHED = b"-"

CARRIES_REDO = frozenset({Kind.PUT_SMALL, Kind.PATCH, Kind.REWRITE_SMALL, Kind.DELETE})
"""Kinds whose effect on disk is not synced by the operation: a checkpoint waits until it has been made."""
PUTS = frozenset({Kind.PUT_SMALL, Kind.PUT_LARGE})

encode_record = msgspec.msgpack.Encoder().encode
decode_record = msgspec.msgpack.Decoder(Record).decode

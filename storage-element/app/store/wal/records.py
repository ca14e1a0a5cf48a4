"""What the WAL says. An intent opens an operation, marks tell how it went on, a checkpoint lets everything before it go."""

from __future__ import annotations

import enum

import msgspec

from ..durable import Identity


class Kind(enum.IntEnum):
    PUT_SMALL = 1
    """Carries bytes and attributes: replay makes the file."""
    PUT_LARGE = 2
    """Only the intent; the file syncs itself, and is there when its attr.json is."""
    PATCH = 3
    """Carries the new attributes; the bytes stay."""
    REWRITE_SMALL = 4
    """Carries new bytes and attributes of a file that exists."""
    REWRITE_LARGE = 5
    """Only the intent; decided by a mark that names the temp and carries the attributes."""
    DELETE = 6


class Step(enum.IntEnum):
    DECIDED = 1
    """A large rewrite's new bytes are durable in its temp: from here it goes forward."""
    ABORTED = 2
    """The operation's effects on disk were undone: replay must not repeat them."""
    CLOSED = 3
    """Nothing is left to do. Not synced: recovery finds out the same from the disk."""


class Intent(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """`attributes` is the attr.json to be, where the record carries one. A frame may carry file bytes beside it."""

    kind: Kind
    file_id: str
    saga_id: str | None = None
    attributes: bytes = b""
    temp: str = ""
    revision: int = 1
    """The revision it makes; for a delete the one after the file's last."""
    stood: tuple[Identity, ...] = ()
    """The attr.json and the data that it replaces or deletes. Replay touches no others: a person may have put them there."""


class Mark(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Something about the intent with the number `of`; repeats its kind, id, temp and `stood`, so that a mark is understood
    also where the intent rotted or lies below the last checkpoint. `attributes`: of an aborted put its attr.json, UNPUBLISHED
    where it had not come so far."""

    step: Step
    of: int
    kind: Kind
    file_id: str
    attributes: bytes = b""
    temp: str = ""
    stood: tuple[Identity, ...] = ()


class Closed(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """CLOSED for many intents at once; recovery finds the same out for those whose record was lost."""

    numbers: list[int]


class Confirmed(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Files whose sagas were seen committed: from here on no compensation may take them away."""

    file_ids: list[str]


class CarriedIntent(msgspec.Struct, frozen=True, array_like=True):
    """An intent carried over a checkpoint, without the bytes its frame had."""

    number: int
    intent: Intent
    aborted: bool = False
    decided: Mark | None = None
    confirmed: bool = False
    """A put whose saga was seen committed before the intent could be closed."""
    undone: bytes = b""
    """attr.json of an aborted put."""


class Unconfirmed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The saga that put a file and has not been seen committed, and when (Unix seconds)."""

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
    """Whether `files` and `bytes_used` were right."""
    here: Identity | None = None
    """The log's folder. In a copy of the root it is another one, and no `stood` says anything."""


Record = Intent | Mark | Checkpoint | Closed | Confirmed

UNPUBLISHED = b"-"

CARRIES_REDO = frozenset({Kind.PUT_SMALL, Kind.PATCH, Kind.REWRITE_SMALL, Kind.DELETE})
"""Kinds whose effect on disk is not synced by itself: a checkpoint waits until it has been made."""
PUTS = frozenset({Kind.PUT_SMALL, Kind.PUT_LARGE})

encode_record = msgspec.msgpack.Encoder().encode
decode_record = msgspec.msgpack.Decoder(Record).decode

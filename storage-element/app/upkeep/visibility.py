"""Decides whether a file on the disk is visible to all, by what the catalog and the sagas say of it. Pure.

The hard case is a file whose saga the catalog does not know. Two accidents look alike there: PostgreSQL
crashed and lost a begin that was never committed, or the catalog went back in time and lost an acknowledged
upload. A saga that began before the catalog's generation counts as the second: its file is kept. A later one
counts as the first: its row stays or becomes pending, and admin undoes it. The exception is a rebuild of a
file without a row: the catalog may have been emptied by hand.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

InDoubt = Literal["keep", "undo"]


class Visibility(enum.Enum):
    AVAILABLE = "available"
    """The saga was committed, or no saga is open."""
    PENDING = "pending"
    """The saga is open or is being undone: admin decides."""
    WAIT = "wait"
    """The catalog does not know the saga, whose lease is not over: the commit may still come."""
    ELSEWHERE = "elsewhere"
    """The upload continued at another element; this copy is removed by its saga."""


@dataclass(frozen=True, slots=True)
class KnownRow:
    """The catalog's row of the file. `here`: it names this element."""

    available: bool
    here: bool


@dataclass(frozen=True, slots=True)
class KnownSaga:
    """The saga that put the file. `state` None: admin does not know it, or has forgotten it."""

    state: str | None
    here: bool
    lease_over: bool
    old: bool = False
    """The saga began before the catalog's generation."""
    compensated: bool = False
    """This element was asked to compensate the saga, so it was never committed."""


def visibility(row: KnownRow | None, saga: KnownSaga | None, in_doubt: InDoubt) -> Visibility:
    """`saga` None: neither the store nor the row names a saga that may be open."""
    if saga is None:
        return Visibility.AVAILABLE
    if row is not None and row.available:
        return Visibility.AVAILABLE if row.here else Visibility.ELSEWHERE
    if saga.state is not None:
        if not saga.here:
            return Visibility.ELSEWHERE
        return Visibility.AVAILABLE if saga.state == "committed" else Visibility.PENDING
    if saga.compensated:
        return Visibility.PENDING
    if not saga.lease_over:
        return Visibility.WAIT
    kept = saga.old or (row is None and in_doubt == "keep")
    return Visibility.AVAILABLE if kept else Visibility.PENDING

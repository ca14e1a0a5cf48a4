"""Whether a file on disk is for all to see, by what the catalog and the sagas say of it. Pure.

The hard case is a file whose saga the catalog does not know. Two accidents look alike there: PostgreSQL crashed and lost a
begin that was never committed, or the catalog went back in time and lost an upload that was acknowledged. A saga that began
before the catalog's generation counts as the second: its file is kept. A later one counts as the first (its row stays or
becomes pending, and admin undoes it), but for a rebuild of a file without a row: the catalog may have been emptied by hand.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

InDoubt = Literal["keep", "undo"]


class Standing(enum.Enum):
    AVAILABLE = "available"
    """Its saga was committed, or it never had one that is open."""
    PENDING = "pending"
    """Its saga is open or is being undone: admin decides."""
    WAIT = "wait"
    """The catalog does not know its saga, whose lease is not over: the commit may still come."""
    ELSEWHERE = "elsewhere"
    """The upload went on at another element; what lies here is taken away by its saga."""


@dataclass(frozen=True, slots=True)
class Row:
    """The catalog's row of the file. `here`: it names this element."""

    available: bool
    here: bool


@dataclass(frozen=True, slots=True)
class Saga:
    """The saga that put the file. `state` None: admin has never heard of it, or has forgotten it."""

    state: str | None
    here: bool
    lease_over: bool
    old: bool = False
    """It began before the catalog's generation."""
    compensated: bool = False
    """This element was asked to take back what the saga put: it was never committed."""


def standing(row: Row | None, saga: Saga | None, in_doubt: InDoubt) -> Standing:
    """`saga` None: neither the store nor the row knows one that might be open."""
    if saga is None:
        return Standing.AVAILABLE
    if row is not None and row.available:
        return Standing.AVAILABLE if row.here else Standing.ELSEWHERE
    if saga.state is not None:
        if not saga.here:
            return Standing.ELSEWHERE
        return Standing.AVAILABLE if saga.state == "committed" else Standing.PENDING
    if saga.compensated:
        return Standing.PENDING
    if not saga.lease_over:
        return Standing.WAIT
    kept = saga.old or (row is None and in_doubt == "keep")
    return Standing.AVAILABLE if kept else Standing.PENDING

"""Whether a file on disk is for all to see, by what the catalog and the sagas say of it. Pure.

The hard case is a file whose saga nobody knows and which has no row. Two accidents look alike there: PostgreSQL crashed and
lost a begin that was never committed, or the whole catalog was lost, with an upload that was acknowledged. Upkeep by itself
takes it for the first (the saga is undone after its lease); a rebuild takes it for the second and keeps the file.
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
    """Nobody knows its saga, and its lease is not over: the commit may still come."""
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
    if row is not None:
        return Standing.PENDING
    if not saga.lease_over:
        return Standing.WAIT
    return Standing.AVAILABLE if in_doubt == "keep" else Standing.PENDING

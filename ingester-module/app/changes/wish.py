"""A change of one file as its client means it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Pin = Callable[[int], Awaitable[None]]


async def no_pin(_revision: int) -> None:
    """Nobody needs to know."""


def nothing() -> None:
    """Nobody needs to know this either."""


@dataclass(frozen=True, slots=True)
class Wish:
    """`saga_id` is the saga's that remembers the change should its element be away: a repeat with the same id is one change."""

    saga_id: str
    file_id: str
    owner: str
    if_revisions: tuple[int, ...] | None = None
    """The revisions that the client's If-Match allows; None: any."""
    if_checksums: tuple[str, ...] = ()
    """The contents that it allows beside them, for new content only."""
    pin: Pin = no_pin
    """Told the revision that is changed, before the element is asked to."""
    in_doubt: Callable[[], None] = nothing
    """Told when the element was asked, or may have been, and has not said what became of it."""
    keyed: bool = False
    """Under an Idempotency-Key, whose row names the saga."""

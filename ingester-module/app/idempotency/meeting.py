"""A request meets a key that was used before: what becomes of it. One pure decision."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from artstore.contracts.idempotency import Answer


class Meeting(enum.StrEnum):
    """`result` of idempotency_requests_total."""

    FIRST = "first"
    """Nobody has used the key."""
    REPLAYED = "replayed"
    """Answered: the first answer is given again."""
    RUNNING = "running"
    """Somebody holds it: 409."""
    MISMATCH = "mismatch"
    """It is another request's: 422."""
    TAKEN_OVER = "taken_over"
    """Whoever ran it let go or died without an answer: this request goes on."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A row of idempotency_keys. `held_s` is what is left of the lease by the database's clock."""

    fingerprint: str
    saga_id: str
    file_id: str
    from_revision: int | None
    held_s: float
    answer: Answer | None


def meet(kept: Kept, fingerprint: str) -> Meeting:
    if kept.fingerprint != fingerprint:
        return Meeting.MISMATCH
    if kept.answer is not None:
        return Meeting.REPLAYED
    return Meeting.RUNNING if kept.held_s > 0 else Meeting.TAKEN_OVER

"""The state machine of a saga: its states, the one transition table, and `advance`."""

from __future__ import annotations

import enum

KEEP_FINISHED_S = 7 * 24 * 3600.0
"""A finished saga is kept this long; the commit of an unknown saga that is older is refused."""


class SagaState(enum.StrEnum):
    """`sagas.state` in the database."""

    BEGUN = "begun"
    """The ingester holds a lease and is transferring; nothing of the file is visible yet."""
    COMMITTED = "committed"
    """The file is in the catalog and visible, or the change is applied. Final."""
    COMPENSATING = "compensating"
    """The file is being removed from its elements. Retried until they confirm the removal."""
    COMPENSATED = "compensated"
    """The upload left nothing behind. Final: a late commit is refused."""
    QUEUED = "queued"
    """A change whose element was away. Retried until the element applies or refuses it."""
    REFUSED = "refused"
    """The element refused the change; `problem` has the reason. Final: nothing was changed."""


class SagaEvent(enum.StrEnum):
    BEGIN = "begin"
    """The ingester begins, or renews its lease."""
    COMMIT = "commit"
    """The element has confirmed to the ingester that the file is on disk."""
    ABORT = "abort"
    """The ingester gives the upload up."""
    LEASE_EXPIRED = "lease_expired"
    """Neither renewal nor commit came in time, so the ingester is presumed dead."""
    FOUND = "found"
    """The catalog has a pending file without a live saga: a late put, or a begin that was lost."""
    RECALLED = "recalled"
    """The catalog has a pending file of an unknown saga that began before its generation."""
    KEEP = "keep"
    """The element holds the file, and the upload may have been acknowledged."""
    UNDONE = "undone"
    """The element has confirmed that nothing of this saga is left."""
    QUEUE = "queue"
    """The ingester (for a mode: admin) could not apply the change now and queues it."""
    DONE = "done"
    """The element has applied the change, now or in an attempt whose answer was lost."""
    REFUSE = "refuse"
    """The element has refused the change for good."""


TRANSITIONS: dict[tuple[SagaState | None, SagaEvent], SagaState] = {
    (None, SagaEvent.BEGIN): SagaState.BEGUN,
    # The begin was lost in a database crash; a commit carries the whole record.
    (None, SagaEvent.COMMIT): SagaState.COMMITTED,
    (None, SagaEvent.ABORT): SagaState.COMPENSATING,
    (None, SagaEvent.FOUND): SagaState.COMPENSATING,
    # Treated as begun, so that the element is asked whether it has the file.
    (None, SagaEvent.RECALLED): SagaState.BEGUN,
    (SagaState.BEGUN, SagaEvent.BEGIN): SagaState.BEGUN,
    (SagaState.BEGUN, SagaEvent.COMMIT): SagaState.COMMITTED,
    (SagaState.BEGUN, SagaEvent.ABORT): SagaState.COMPENSATING,
    (SagaState.BEGUN, SagaEvent.LEASE_EXPIRED): SagaState.COMPENSATING,
    (SagaState.BEGUN, SagaEvent.KEEP): SagaState.COMMITTED,
    (SagaState.COMMITTED, SagaEvent.BEGIN): SagaState.COMMITTED,
    (SagaState.COMMITTED, SagaEvent.COMMIT): SagaState.COMMITTED,
    (SagaState.COMPENSATING, SagaEvent.ABORT): SagaState.COMPENSATING,
    (SagaState.COMPENSATING, SagaEvent.UNDONE): SagaState.COMPENSATED,
    # The element answered 409 `confirmed` to the compensation.
    (SagaState.COMPENSATING, SagaEvent.KEEP): SagaState.COMMITTED,
    (SagaState.COMPENSATED, SagaEvent.ABORT): SagaState.COMPENSATED,
    (SagaState.COMPENSATED, SagaEvent.UNDONE): SagaState.COMPENSATED,
    (SagaState.COMPENSATED, SagaEvent.FOUND): SagaState.COMPENSATING,
    (None, SagaEvent.QUEUE): SagaState.QUEUED,
    # A repeated request whose answer was lost gets the saga's present state.
    (SagaState.QUEUED, SagaEvent.QUEUE): SagaState.QUEUED,
    (SagaState.COMMITTED, SagaEvent.QUEUE): SagaState.COMMITTED,
    (SagaState.REFUSED, SagaEvent.QUEUE): SagaState.REFUSED,
    (SagaState.QUEUED, SagaEvent.DONE): SagaState.COMMITTED,
    (SagaState.QUEUED, SagaEvent.REFUSE): SagaState.REFUSED,
}
"""(state before, event) → state after. None: the saga is unknown. Combinations that are not listed are
refused."""


def advance(state: SagaState | None, event: SagaEvent) -> SagaState | None:
    """The state after `event`, or None when `state` refuses it."""
    return TRANSITIONS.get((state, event))


def accepting(event: SagaEvent, into: SagaState) -> list[str]:
    """The states from which `event` leads to `into`, for the WHERE of the statement that does it."""
    return [state.value for (state, what), after in TRANSITIONS.items() if state and what is event and after is into]

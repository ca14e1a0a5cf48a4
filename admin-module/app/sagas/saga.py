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
    """The file is in the catalog for all to see; the change is made. Final."""
    COMPENSATING = "compensating"
    """The file is being taken off its element, again and again until the element says it is gone."""
    COMPENSATED = "compensated"
    """Nothing is left of the upload. Final: a late commit is refused."""
    QUEUED = "queued"
    """A change whose element was away: it is asked again and again until it has made or refused it."""
    REFUSED = "refused"
    """The element was back and refused the change; `problem` says why. Final: nothing was changed."""


class SagaEvent(enum.StrEnum):
    BEGIN = "begin"
    """The ingester begins, or renews its lease."""
    COMMIT = "commit"
    """The ingester has the element's word that the file is on disk."""
    ABORT = "abort"
    """The ingester gives up."""
    LEASE_EXPIRED = "lease_expired"
    """Neither renewal nor commit came in time: the ingester is taken for dead."""
    FOUND = "found"
    """The catalog has a pending file of a saga that nobody holds: a put that came late, or a begin that was lost."""
    RECALLED = "recalled"
    """The catalog has a pending file of a saga that it does not know and that began before its generation."""
    KEEP = "keep"
    """The element holds the file, and the catalog cannot tell that the upload was never acknowledged."""
    UNDONE = "undone"
    """The element has answered that nothing of this saga is left."""
    QUEUE = "queue"
    """The ingester, or admin for a mode, could not make the change now and wants it remembered."""
    DONE = "done"
    """The element has made the change, now or at a try whose answer was lost."""
    REFUSE = "refuse"
    """The element will not make the change, however often it is asked."""


TRANSITIONS: dict[tuple[SagaState | None, SagaEvent], SagaState] = {
    (None, SagaEvent.BEGIN): SagaState.BEGUN,
    # The begin was lost in a database crash: commit carries all it needs.
    (None, SagaEvent.COMMIT): SagaState.COMMITTED,
    (None, SagaEvent.ABORT): SagaState.COMPENSATING,
    (None, SagaEvent.FOUND): SagaState.COMPENSATING,
    # As begun: the element is asked whether it has the file.
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
    # The same request again, whose answer was lost: it is answered with what has become of it.
    (SagaState.QUEUED, SagaEvent.QUEUE): SagaState.QUEUED,
    (SagaState.COMMITTED, SagaEvent.QUEUE): SagaState.COMMITTED,
    (SagaState.REFUSED, SagaEvent.QUEUE): SagaState.REFUSED,
    (SagaState.QUEUED, SagaEvent.DONE): SagaState.COMMITTED,
    (SagaState.QUEUED, SagaEvent.REFUSE): SagaState.REFUSED,
}
"""(state before, event) → state after. None: admin has never heard of the saga. What is absent is refused."""

FINAL = frozenset({SagaState.COMMITTED, SagaState.COMPENSATED, SagaState.REFUSED})


def advance(state: SagaState | None, event: SagaEvent) -> SagaState | None:
    """The state after `event`, or None when `state` refuses it."""
    return TRANSITIONS.get((state, event))


def accepting(event: SagaEvent, into: SagaState) -> list[str]:
    """The states from which `event` leads to `into`, for the WHERE of the statement that does it."""
    return [state.value for (state, what), after in TRANSITIONS.items() if state and what is event and after is into]


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documents."""
    lines = ["stateDiagram-v2"]
    for (before, event), after in TRANSITIONS.items():
        if before is not after:
            lines.append(f"    {before.value if before else '[*]'} --> {after.value}: {event.value}")
    lines += [f"    {state.value} --> [*]" for state in SagaState if state in FINAL]
    return "\n".join(lines) + "\n"

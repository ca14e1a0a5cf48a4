from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from app.sagas.saga import TRANSITIONS, SagaEvent, SagaState, accepting, advance

B, C, U, D = SagaState.BEGUN, SagaState.COMMITTED, SagaState.COMPENSATING, SagaState.COMPENSATED
Q, R = SagaState.QUEUED, SagaState.REFUSED
NO = None
STATES = [None, B, C, U, D, Q, R]
TABLE = {
    #                 unknown, begun, committed, compensating, compensated, queued, refused
    SagaEvent.BEGIN: (B, B, C, NO, NO, NO, NO),
    SagaEvent.COMMIT: (C, C, C, NO, NO, NO, NO),
    SagaEvent.ABORT: (U, U, NO, U, D, NO, NO),
    SagaEvent.LEASE_EXPIRED: (NO, U, NO, NO, NO, NO, NO),
    SagaEvent.FOUND: (U, NO, NO, NO, U, NO, NO),
    SagaEvent.RECALLED: (B, NO, NO, NO, NO, NO, NO),
    SagaEvent.KEEP: (NO, C, NO, C, NO, NO, NO),
    SagaEvent.UNDONE: (NO, NO, NO, D, D, NO, NO),
    SagaEvent.QUEUE: (Q, NO, C, NO, NO, Q, R),
    SagaEvent.DONE: (NO, NO, NO, NO, NO, C, NO),
    SagaEvent.REFUSE: (NO, NO, NO, NO, NO, R, NO),
}

FINAL = frozenset({SagaState.COMMITTED, SagaState.COMPENSATED, SagaState.REFUSED})


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documents."""
    lines = ["stateDiagram-v2"]
    for (before, event), after in TRANSITIONS.items():
        if before is not after:
            lines.append(f"    {before.value if before else '[*]'} --> {after.value}: {event.value}")
    lines += [f"    {state.value} --> [*]" for state in SagaState if state in FINAL]
    return "\n".join(lines) + "\n"


def test_the_table_covers_every_state_and_event() -> None:
    assert set(STATES) == {None, *SagaState}
    assert set(TABLE) == set(SagaEvent)


@pytest.mark.parametrize(("before", "event"), list(itertools.product(STATES, SagaEvent)), ids=lambda value: str(value))
def test_every_event_in_every_state_does_what_the_table_says(before: SagaState | None, event: SagaEvent) -> None:
    assert advance(before, event) is TABLE[event][STATES.index(before)]


def test_committed_and_refused_are_final() -> None:
    for final in (C, R):
        assert {after for (before, _), after in TRANSITIONS.items() if before is final} == {final}


def test_statements_take_their_states_from_the_table() -> None:
    assert accepting(SagaEvent.LEASE_EXPIRED, U) == ["begun"]
    assert accepting(SagaEvent.COMMIT, C) == ["begun", "committed"]


def test_the_diagram_shows_every_change_of_state() -> None:
    printed = diagram()
    changes = [(before, event) for (before, event), after in TRANSITIONS.items() if before is not after]
    assert printed.count("-->") == len(changes) + len(FINAL)


def test_the_documents_show_the_diagram_as_it_is() -> None:
    document = (Path(__file__).parents[3] / "docs" / "life-of-a-file.md").read_text()
    assert f"```mermaid\n{diagram()}```" in document

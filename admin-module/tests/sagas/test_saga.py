from __future__ import annotations

import itertools

import pytest

from app.sagas.saga import FINAL, TRANSITIONS, SagaEvent, SagaState, accepting, advance, diagram

B, C, U, D = SagaState.BEGUN, SagaState.COMMITTED, SagaState.COMPENSATING, SagaState.COMPENSATED
NO = None
TABLE = {
    #                         unknown, begun, committed, compensating, compensated
    SagaEvent.BEGIN: (B, B, C, NO, NO),
    SagaEvent.COMMIT: (C, C, C, NO, NO),
    SagaEvent.ABORT: (U, U, NO, U, D),
    SagaEvent.LEASE_EXPIRED: (NO, U, NO, NO, NO),
    SagaEvent.FOUND: (U, NO, NO, NO, U),
    SagaEvent.UNDONE: (NO, NO, NO, D, D),
}


@pytest.mark.parametrize(
    ("before", "event"), list(itertools.product([None, B, C, U, D], SagaEvent)), ids=lambda value: str(value)
)
def test_every_event_in_every_state_does_what_the_table_says(before: SagaState | None, event: SagaEvent) -> None:
    assert advance(before, event) is TABLE[event][[None, B, C, U, D].index(before)]


def test_a_committed_saga_is_never_undone() -> None:
    assert {after for (before, _), after in TRANSITIONS.items() if before is C} == {C}


def test_statements_take_their_states_from_the_table() -> None:
    assert accepting(SagaEvent.LEASE_EXPIRED, U) == ["begun"]
    assert accepting(SagaEvent.COMMIT, C) == ["begun", "committed"]


def test_the_diagram_shows_every_change_of_state() -> None:
    printed = diagram()
    changes = [(before, event) for (before, event), after in TRANSITIONS.items() if before is not after]
    assert printed.count("-->") == len(changes) + len(FINAL)

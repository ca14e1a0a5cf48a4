from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.identity.rotation import KeyAge, KeyState, Plan, Schedule, find_overdue_s, plan

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SCHEDULE = Schedule(rotate_every=timedelta(hours=24), publish_lead=timedelta(minutes=15), grace=timedelta(hours=1))
NEXT, ACTIVE, RETIRING = KeyState.NEXT, KeyState.ACTIVE, KeyState.RETIRING


def key(kid: str, state: KeyState, **age: float) -> KeyAge:
    return KeyAge(kid, state, NOW - timedelta(**age))


@pytest.mark.parametrize(
    ("keys", "force", "expected"),
    [
        pytest.param([], False, Plan(create=(ACTIVE, NEXT)), id="the first start makes both"),
        pytest.param([key("n", NEXT, hours=0)], False, Plan(activate="n", create=(NEXT,)), id="no active one"),
        pytest.param([key("a", ACTIVE, hours=1)], False, Plan(create=(NEXT,)), id="a next one is always published"),
        pytest.param([key("a", ACTIVE, hours=23), key("n", NEXT, hours=23)], False, Plan(), id="not due"),
        pytest.param(
            [key("a", ACTIVE, hours=24), key("n", NEXT, hours=24)],
            False,
            Plan(retire="a", activate="n", create=(NEXT,)),
            id="due after a day",
        ),
        pytest.param(
            [key("a", ACTIVE, hours=30), key("n", NEXT, minutes=14)],
            False,
            Plan(),
            id="the next one is too new to sign",
        ),
        pytest.param(
            [key("a", ACTIVE, hours=1), key("n", NEXT, minutes=1)],
            True,
            Plan(retire="a", activate="n", create=(NEXT,)),
            id="by force at any time",
        ),
        pytest.param(
            [key("a", ACTIVE, hours=1), key("n", NEXT, hours=1), key("r", RETIRING, minutes=59)],
            False,
            Plan(),
            id="a retiring one verifies through its grace",
        ),
        pytest.param(
            [key("a", ACTIVE, hours=1), key("n", NEXT, hours=1), key("r", RETIRING, hours=1)],
            False,
            Plan(remove=("r",)),
            id="and is gone after it",
        ),
    ],
)
def test_keys_change_state_when_they_are_due(keys: list[KeyAge], force: bool, expected: Plan) -> None:
    assert plan(keys, NOW, SCHEDULE, force=force) == expected


@pytest.mark.parametrize(
    ("revoked", "expected"),
    [
        pytest.param("a", Plan(remove=("a",), activate="n", create=(NEXT,)), id="the next one signs at once"),
        pytest.param("n", Plan(remove=("n",), create=(NEXT,)), id="a next one is replaced"),
        pytest.param("r", Plan(remove=("r",)), id="a retiring one is gone before its grace is over"),
    ],
)
def test_a_revoked_key_is_removed_at_once(revoked: str, expected: Plan) -> None:
    keys = [key("a", ACTIVE, hours=1), key("n", NEXT, minutes=1), key("r", RETIRING, minutes=1)]
    assert plan(keys, NOW, SCHEDULE, revoke=revoked) == expected


def test_a_revocation_of_the_only_key_makes_new_ones() -> None:
    assert plan([key("a", ACTIVE, hours=1)], NOW, SCHEDULE, revoke="a") == Plan(remove=("a",), create=(ACTIVE, NEXT))


@pytest.mark.parametrize(
    ("keys", "overdue_s"),
    [
        pytest.param([], 0, id="no key yet"),
        pytest.param([key("a", ACTIVE, hours=23), key("r", RETIRING, hours=30)], 0, id="not due"),
        pytest.param([key("a", ACTIVE, hours=25), key("n", NEXT, hours=25)], 3600, id="due for an hour"),
    ],
)
def test_an_active_key_that_was_not_replaced_is_overdue(keys: list[KeyAge], overdue_s: float) -> None:
    assert find_overdue_s(keys, NOW, SCHEDULE) == overdue_s

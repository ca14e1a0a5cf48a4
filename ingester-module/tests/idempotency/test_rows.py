"""The rows in a real PostgreSQL: one try holds a key, and only that one can change its row."""

from __future__ import annotations

import asyncio

import pytest

from app.idempotency.rows import Rows, Scope
from artstore.clock import uuid7
from artstore.contracts.idempotency import Answer

from ..conftest import Fleet

ANSWER = Answer(status=200, headers={"etag": '"2"'}, body=b'{"a":1}')


def new_id() -> str:
    return str(uuid7())


@pytest.fixture
def rows(fleet: Fleet) -> Rows:
    return Rows(fleet.context.database, lease_s=60)


@pytest.fixture
def dying(fleet: Fleet) -> Rows:
    """Its leases end as they begin."""
    return Rows(fleet.context.database, lease_s=0)


@pytest.fixture
def scope() -> Scope:
    return Scope("somebody", new_id())


async def test_of_many_at_once_one_has_the_key(rows: Rows, scope: Scope) -> None:
    claims = await asyncio.gather(*(rows.claim(scope, "f", new_id(), new_id()) for _ in range(8)))
    assert sum(claims) == 1
    assert await rows.claim(Scope("another", scope.key), "f", new_id(), new_id())
    assert await rows.claim(Scope(scope.client_id, scope.key + "x"), "f", new_id(), new_id())


async def test_what_was_claimed_is_found(rows: Rows, scope: Scope) -> None:
    assert await rows.find(scope) is None
    saga_id, file_id = new_id(), new_id()
    await rows.claim(scope, "f", saga_id, file_id)
    kept = await rows.find(scope)
    assert kept is not None
    assert (kept.fingerprint, kept.saga_id, kept.file_id, kept.from_revision, kept.answer) == (
        "f",
        saga_id,
        file_id,
        None,
        None,
    )
    assert 30 < kept.held_s <= 60


async def test_an_answer_is_kept_once_and_for_all(rows: Rows, scope: Scope) -> None:
    saga_id = new_id()
    await rows.claim(scope, "f", saga_id, new_id())
    assert await rows.answer(scope, saga_id, ANSWER)
    assert not await rows.answer(scope, saga_id, Answer(status=204, headers={}))
    assert not await rows.release(scope, saga_id)
    assert not await rows.move(scope, saga_id, new_id(), new_id())
    kept = await rows.find(scope)
    assert kept is not None
    assert kept.answer == ANSWER


async def test_a_key_is_taken_over_by_one_and_only_after_its_lease(rows: Rows, dying: Rows, scope: Scope) -> None:
    saga_id = new_id()
    await rows.claim(scope, "f", saga_id, new_id())
    assert not await rows.take(scope, saga_id, new_id(), new_id())
    await rows.let_go(scope, saga_id)
    takes = await asyncio.gather(*(rows.take(scope, saga_id, new_id(), new_id()) for _ in range(8)))
    assert sum(takes) == 1


async def test_who_lost_a_key_changes_nothing(rows: Rows, dying: Rows, scope: Scope) -> None:
    old, new = new_id(), new_id()
    await dying.claim(scope, "f", old, new_id())
    assert await dying.pin(scope, old, 3)
    assert await rows.take(scope, old, new, new_id())
    for changed in (
        rows.renew(scope, old), rows.pin(scope, old, 9), rows.answer(scope, old, ANSWER), rows.release(scope, old),
        rows.let_go(scope, old), rows.move(scope, old, new_id(), new_id()), rows.take(scope, old, new_id(), new_id()),
    ):  # fmt: skip
        assert not await changed
    kept = await rows.find(scope)
    assert kept is not None
    assert (kept.saga_id, kept.from_revision, kept.answer) == (new, 3, None)
    assert kept.held_s > 30
    assert await rows.renew(scope, new)


async def test_a_released_key_is_free(rows: Rows, scope: Scope) -> None:
    saga_id = new_id()
    await rows.claim(scope, "f", saga_id, new_id())
    assert await rows.release(scope, saga_id)
    assert await rows.find(scope) is None
    assert await rows.claim(scope, "other", new_id(), new_id())


async def test_a_key_is_free_again_when_it_is_old_and_nobody_holds_it(rows: Rows, dying: Rows, scope: Scope) -> None:
    saga_id = new_id()
    await rows.claim(scope, "f", saga_id, new_id())
    await rows.pin(scope, saga_id, 4)
    await rows.answer(scope, saga_id, ANSWER)
    assert not await rows.claim(scope, "g", new_id(), new_id(), keep_s=0)  # the lease
    old = Scope("somebody", new_id())
    await dying.claim(old, "f", saga_id := new_id(), new_id())
    await dying.pin(old, saga_id, 4)
    await dying.answer(old, saga_id, ANSWER)
    assert not await rows.claim(old, "g", new_id(), new_id(), keep_s=3600)
    assert await rows.claim(old, "g", new_id(), new_id(), keep_s=0)
    kept = await rows.find(old)
    assert kept is not None
    assert (kept.fingerprint, kept.from_revision, kept.answer) == ("g", None, None)
    assert kept.held_s > 30

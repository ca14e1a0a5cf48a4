"""Keys in a real PostgreSQL: one attempt holds a key, and only that one can change its row."""

from __future__ import annotations

import asyncio

import pytest

from app.idempotency.store import KeyStore, Scope
from artstore.clock import uuid7
from artstore.contracts.idempotency import Answer

from ..conftest import Fleet

ANSWER = Answer(status=200, headers={"etag": '"2"'}, body=b'{"a":1}')


def new_id() -> str:
    return str(uuid7())


@pytest.fixture
def store(fleet: Fleet) -> KeyStore:
    return KeyStore(fleet.context.database, lease_s=60)


@pytest.fixture
def expiring(fleet: Fleet) -> KeyStore:
    """Its leases end at once."""
    return KeyStore(fleet.context.database, lease_s=0)


@pytest.fixture
def scope() -> Scope:
    return Scope("somebody", new_id())


async def test_one_of_many_concurrent_claims_wins(store: KeyStore, scope: Scope) -> None:
    claims = await asyncio.gather(*(store.claim(scope, "f", new_id(), new_id()) for _ in range(8)))
    assert sum(claims) == 1
    assert await store.claim(Scope("another", scope.key), "f", new_id(), new_id())
    assert await store.claim(Scope(scope.client_id, scope.key + "x"), "f", new_id(), new_id())


async def test_a_claimed_key_is_found(store: KeyStore, scope: Scope) -> None:
    assert await store.find(scope) is None
    saga_id, file_id = new_id(), new_id()
    await store.claim(scope, "f", saga_id, file_id)
    stored = await store.find(scope)
    assert stored is not None
    assert (stored.fingerprint, stored.saga_id, stored.file_id, stored.from_revision, stored.answer) == (
        "f",
        saga_id,
        file_id,
        None,
        None,
    )
    assert 30 < stored.lease_left_s <= 60


async def test_an_answer_is_stored_once_and_never_changed(store: KeyStore, scope: Scope) -> None:
    saga_id = new_id()
    await store.claim(scope, "f", saga_id, new_id())
    assert await store.answer(scope, saga_id, ANSWER)
    assert not await store.answer(scope, saga_id, Answer(status=204, headers={}))
    assert not await store.release(scope, saga_id)
    assert not await store.set_ids(scope, saga_id, new_id(), new_id())
    stored = await store.find(scope)
    assert stored is not None
    assert stored.answer == ANSWER


async def test_one_request_takes_a_key_over_and_only_after_its_lease(
    store: KeyStore, expiring: KeyStore, scope: Scope
) -> None:
    saga_id = new_id()
    await store.claim(scope, "f", saga_id, new_id())
    assert not await store.take_over(scope, saga_id, new_id(), new_id())
    await store.end_lease(scope, saga_id)
    takes = await asyncio.gather(*(store.take_over(scope, saga_id, new_id(), new_id()) for _ in range(8)))
    assert sum(takes) == 1


async def test_an_attempt_that_lost_its_key_changes_nothing(store: KeyStore, expiring: KeyStore, scope: Scope) -> None:
    old, new = new_id(), new_id()
    await expiring.claim(scope, "f", old, new_id())
    assert await expiring.pin(scope, old, 3)
    assert await store.take_over(scope, old, new, new_id())
    for changed in (
        store.renew(scope, old), store.pin(scope, old, 9), store.answer(scope, old, ANSWER), store.release(scope, old),
        store.end_lease(scope, old), store.set_ids(scope, old, new_id(), new_id()),
        store.take_over(scope, old, new_id(), new_id()),
    ):  # fmt: skip
        assert not await changed
    stored = await store.find(scope)
    assert stored is not None
    assert (stored.saga_id, stored.from_revision, stored.answer) == (new, 3, None)
    assert stored.lease_left_s > 30
    assert await store.renew(scope, new)


async def test_a_released_key_is_free(store: KeyStore, scope: Scope) -> None:
    saga_id = new_id()
    await store.claim(scope, "f", saga_id, new_id())
    assert await store.release(scope, saga_id)
    assert await store.find(scope) is None
    assert await store.claim(scope, "other", new_id(), new_id())


async def test_an_old_key_is_free_unless_it_is_held(store: KeyStore, expiring: KeyStore, scope: Scope) -> None:
    saga_id = new_id()
    await store.claim(scope, "f", saga_id, new_id())
    await store.pin(scope, saga_id, 4)
    await store.answer(scope, saga_id, ANSWER)
    assert not await store.claim(scope, "g", new_id(), new_id(), keep_s=0)  # the lease
    old = Scope("somebody", new_id())
    await expiring.claim(old, "f", saga_id := new_id(), new_id())
    await expiring.pin(old, saga_id, 4)
    await expiring.answer(old, saga_id, ANSWER)
    assert not await store.claim(old, "g", new_id(), new_id(), keep_s=3600)
    assert await store.claim(old, "g", new_id(), new_id(), keep_s=0)
    stored = await store.find(old)
    assert stored is not None
    assert (stored.fingerprint, stored.from_revision, stored.answer) == ("g", None, None)
    assert stored.lease_left_s > 30

"""Commits under an Idempotency-Key: with the answer, or not at all; and the end of a key."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from app.sagas.idempotency import purge_keys
from artstore.clock import uuid7
from artstore.contracts.files import decode, encode
from artstore.database import Database
from artstore.database_errors import DatabaseUnavailable
from artstore.http.json import JsonResponse
from artstore.metrics import new_registry
from artstore.peers.breaker import Breakers

from .test_changes import change, finished, put_file, queue
from .test_upload import Ingester, commit_of, saga

ROW = """INSERT INTO idempotency_keys (client_id, key, fingerprint, saga_id, held_until, created_at)
    VALUES ('boss', $1, 'f', $2, now() + make_interval(secs => $3), now() - make_interval(secs => $4))"""
FIND = "SELECT status, headers::text, body FROM idempotency_keys WHERE key = $1"


@pytest.fixture
def ingester(admin: Any) -> Ingester:
    return Ingester(admin)


async def keyed_by(admin: Any, saga_id: str, held_s: float = 10, age_s: float = 0) -> str:
    key = str(uuid7())
    await admin.sql(ROW, key, saga_id, held_s, age_s)
    return key


def keyed(begun: dict[str, str]) -> dict[str, Any]:
    return {**commit_of(begun), "keyed": True}


async def states(admin: Any, begun: dict[str, str]) -> tuple[list[str], list[str]]:
    """The state of the saga and of the file."""
    sagas = await admin.sql("SELECT state FROM sagas WHERE saga_id = $1", begun["saga_id"])
    files = await admin.sql("SELECT state FROM files WHERE file_id = $1", begun["file_id"])
    return [row["state"] for row in sagas], [row["state"] for row in files]


async def test_a_commit_and_its_answer_become_durable_together(admin: Any, ingester: Ingester) -> None:
    begun = saga()
    key = await keyed_by(admin, begun["saga_id"])
    commit = keyed(begun)
    for _ in range(2):  # a commit whose answer was lost is asked again
        [result] = await ingester.commit(commit)
        assert (result["state"], result["problem"]) == ("committed", None)
    [row] = await admin.sql(FIND, key)
    record = encode(decode(bytes(JsonResponse(commit["attributes"]).body)))
    assert (row["status"], bytes(row["body"])) == (201, record)
    assert f'"location": "/api/files/{begun["file_id"]}"' in row["headers"]


@pytest.mark.parametrize("known", [True, False], ids=["begun", "begin lost"])
async def test_a_commit_that_no_key_names_is_refused_and_can_be_undone(
    admin: Any, ingester: Ingester, known: bool
) -> None:
    taken, whole = saga(), saga()
    if known:
        await ingester.begin(taken)
    key = await keyed_by(admin, whole["saga_id"])
    refused, committed = await ingester.commit(keyed(taken), keyed(whole))
    assert refused["problem"]["code"] == "conflict"
    assert (committed["state"], committed["problem"]) == ("committed", None)
    assert await states(admin, taken) == (["begun"] if known else [], [])
    assert [row["status"] for row in await admin.sql(FIND, key)] == [201]
    [aborted] = await ingester.abort(taken)
    assert aborted["state"] == "compensating"


async def test_a_commit_without_a_key_asks_for_none(admin: Any, ingester: Ingester) -> None:
    begun = saga()
    key = await keyed_by(admin, begun["saga_id"])
    [result] = await ingester.commit(commit_of(begun))
    assert result["problem"] is None
    assert [row["status"] for row in await admin.sql(FIND, key)] == [None]


async def test_a_commit_that_came_first_stays_one_when_its_key_is_gone(admin: Any, ingester: Ingester) -> None:
    begun = saga()
    key = await keyed_by(admin, begun["saga_id"])
    await ingester.commit(keyed(begun))
    await admin.sql("DELETE FROM idempotency_keys WHERE key = $1", key)
    [again] = await ingester.commit(keyed(begun))
    assert (again["state"], again["problem"]) == ("committed", None)


async def test_either_the_key_takeover_or_the_commit_wins(admin: Any, ingester: Ingester) -> None:
    take = "UPDATE idempotency_keys SET saga_id = $2 WHERE key = $1 AND status IS NULL RETURNING 1"
    for _ in range(20):
        begun = saga()
        key = await keyed_by(admin, begun["saga_id"])
        [[result], taken] = await asyncio.gather(ingester.commit(keyed(begun)), admin.sql(take, key, str(uuid7())))
        assert (result["problem"] is None) != bool(taken)
        assert (await states(admin, begun))[1] == ([] if taken else ["available"])


async def test_old_keys_are_purged_unless_in_use(admin: Any) -> None:
    hour_s = 3600.0
    ages = {"young": (-1.0, 23 * hour_s), "old": (-1.0, 25 * hour_s), "old, held": (60.0, 25 * hour_s)}
    keys = {name: await keyed_by(admin, str(uuid7()), *ages[name]) for name in ages}
    engine = create_async_engine(admin.database_url)
    database = Database(engine, Breakers(new_registry()).to("postgresql", (DatabaseUnavailable,)))
    try:
        assert await purge_keys(database, 26 * hour_s, datetime.now(UTC)) == 0
        await purge_keys(database, 24 * hour_s, datetime.now(UTC))
        # A clock that is behind, ours or PostgreSQL's: nothing is old yet
        assert await purge_keys(database, 0, datetime.now(UTC) - timedelta(days=40)) == 0
        left = {name for name, key in keys.items() if await admin.sql(FIND, key)}
        assert left == {"young", "old, held"}
        await purge_keys(database, 0, datetime.now(UTC))
        assert await admin.sql(FIND, keys["old, held"])
    finally:
        await engine.dispose()


async def test_a_queued_change_and_its_202_become_durable_together(admin: Any, element: Any, eventually: Any) -> None:
    remote = await element("se-01")
    wanted = {**change(put_file(remote), changes={"tags": ["new"]}), "keyed": True}
    key = await keyed_by(admin, wanted["saga_id"])
    await queue(admin, wanted)
    [row] = await admin.sql(FIND, key)
    assert (row["status"], f'"location": "/api/sagas/{wanted["saga_id"]}"' in row["headers"]) == (202, True)
    await finished(admin, eventually, wanted["saga_id"])
    again = await admin.call("POST", "/api/sagas/changes", by="ingester", json=wanted)
    assert (again.status_code, again.content) == (202, bytes(row["body"]))
    assert remote.changed == ['PATCH {"tags":["new"]}']


async def test_a_change_whose_key_was_taken_over_is_not_queued(admin: Any, element: Any) -> None:
    remote = await element("se-01")
    wanted = {**change(put_file(remote)), "keyed": True}
    refused = await admin.call("POST", "/api/sagas/changes", by="ingester", json=wanted)
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert not await admin.sql("SELECT 1 FROM sagas WHERE saga_id = $1", wanted["saga_id"])

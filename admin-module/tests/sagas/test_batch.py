"""The commit of a batch: all of its uploads, with the answer of its key, or none of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from artstore.clock import uuid7

from .test_idempotency import FIND, keyed_by, states
from .test_upload import Ingester, commit_of, saga

BATCH = "/api/sagas/commit-batch"
AVAILABLE = (["committed"], ["available"])


@pytest.fixture
def ingester(admin: Any) -> Ingester:
    return Ingester(admin)


async def commit(admin: Any, *sagas: dict[str, str], key_saga: str | None = None) -> int:
    """The status of the answer."""
    body: dict[str, Any] = {"sagas": [commit_of(one) for one in sagas]}
    if key_saga is not None:
        body["key"] = {"saga_id": key_saga, "answer": {"results": [len(sagas)]}}
    answer = await admin.call("POST", BATCH, by="ingester", json=body)
    assert answer.status_code != 200 or answer.json() == {"committed": len(sagas)}
    return int(answer.status_code)


async def test_all_files_of_a_batch_become_available(admin: Any, ingester: Ingester) -> None:
    sagas = [saga() for _ in range(1000)]
    await ingester.begin(*sagas[:100])
    for _ in range(2):  # a commit whose answer was lost is asked again
        assert await commit(admin, *sagas) == 200
    rows = await admin.sql("SELECT state FROM files WHERE file_id = ANY($1)", [one["file_id"] for one in sagas])
    assert Counter(row["state"] for row in rows) == {"available": 1000}
    assert await states(admin, sagas[0]) == await states(admin, sagas[-1]) == AVAILABLE


async def test_a_batch_with_an_upload_that_was_undone_is_not_committed(admin: Any, ingester: Ingester) -> None:
    sagas = [saga() for _ in range(3)]
    await ingester.abort(sagas[1])
    assert await commit(admin, *sagas) == 409
    assert [(await states(admin, one))[1] for one in sagas] == [[], [], []]
    assert await commit(admin, sagas[0], sagas[2]) == 200


async def test_a_batch_with_an_upload_that_was_committed_before_is_not_committed(
    admin: Any, ingester: Ingester
) -> None:
    sagas = [saga() for _ in range(2)]
    await ingester.commit(commit_of(sagas[0]))
    assert await commit(admin, *sagas) == 409
    assert await states(admin, sagas[1]) == ([], [])


async def test_of_a_batch_and_an_abort_of_one_upload_exactly_one_wins(admin: Any, ingester: Ingester) -> None:
    for _ in range(10):
        sagas = [saga() for _ in range(5)]
        status, [aborted] = await asyncio.gather(commit(admin, *sagas), ingester.abort(sagas[3]))
        found = {(await states(admin, one))[1] == ["available"] for one in sagas}
        assert found == {status == 200}
        assert (aborted["problem"] is None) == (status == 409)


async def test_batches_with_the_same_uploads_do_not_deadlock(admin: Any) -> None:
    sagas = [saga() for _ in range(50)]
    orders = [sagas, sagas[::-1]] * 4
    assert await asyncio.gather(*(commit(admin, *order) for order in orders)) == [200] * 8


async def test_the_answer_of_a_key_is_stored_with_the_commit(admin: Any) -> None:
    sagas, key_saga = [saga() for _ in range(2)], str(uuid7())
    key = await keyed_by(admin, key_saga)
    for _ in range(2):
        assert await commit(admin, *sagas, key_saga=key_saga) == 200
    [row] = await admin.sql(FIND, key)
    assert (row["status"], bytes(row["body"]).replace(b" ", b"")) == (200, b'{"results":[2]}')


async def test_a_batch_whose_key_was_taken_over_is_not_committed(admin: Any) -> None:
    sagas = [saga() for _ in range(2)]
    await keyed_by(admin, str(uuid7()))
    assert await commit(admin, *sagas, key_saga=str(uuid7())) == 409
    assert await states(admin, sagas[0]) == ([], [])


async def test_a_batch_that_is_refused_keeps_no_answer(admin: Any, ingester: Ingester) -> None:
    one, key_saga = saga(), str(uuid7())
    key = await keyed_by(admin, key_saga)
    await ingester.abort(one)
    assert await commit(admin, one, saga(), key_saga=key_saga) == 409
    [row] = await admin.sql(FIND, key)
    assert row["status"] is None


@pytest.mark.parametrize("wrong", ["none", "too many", "twice", "not an id", "not attributes", "key"])
async def test_an_invalid_batch_is_refused(admin: Any, wrong: str) -> None:
    one = commit_of(saga())
    bodies: dict[str, dict[str, Any]] = {
        "none": {"sagas": []},
        "too many": {"sagas": [commit_of(saga()) for _ in range(1001)]},
        "twice": {"sagas": [one, one]},
        "not an id": {"sagas": [{**one, "saga_id": "x"}]},
        "not attributes": {"sagas": [{**one, "attributes": {}}]},
        "key": {"sagas": [one], "key": {"saga_id": "x", "answer": {}}},
    }
    answer = await admin.call("POST", BATCH, by="ingester", json=bodies[wrong])
    assert answer.status_code == 422, answer.text


async def test_rows_that_postgresql_refuses_are_named(admin: Any) -> None:
    sagas = [saga() for _ in range(7)]
    commits = [commit_of(one, **({"revision": 2**40} if number in (2, 6) else {})) for number, one in enumerate(sagas)]
    answer = await admin.call("POST", BATCH, by="ingester", json={"sagas": commits})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_fields")
    assert answer.json()["faults"].keys() == {sagas[2]["saga_id"], sagas[6]["saga_id"]}
    assert [await states(admin, one) for one in sagas] == [([], [])] * len(sagas)

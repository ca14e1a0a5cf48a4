from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from artstore.clock import uuid7


def saga(element_id: str = "se-09", **more: str) -> dict[str, str]:
    given = {"saga_id": str(uuid7()), "file_id": str(uuid7()), "storage_element_id": element_id, "owner": "boss"}
    return {**given, **more}


def commit_of(begun: dict[str, str], **more: Any) -> dict[str, Any]:
    attributes = {
        "schema_version": 1,
        "file_id": begun["file_id"],
        "revision": 1,
        "filename": "Договор №5.pdf",
        "content_type": "application/pdf",
        "size_bytes": 3,
        "checksum": "sha256:" + "0" * 64,
        "storage_element_id": begun["storage_element_id"],
        "created_at": "2026-01-01T00:00:00.000000Z",
        "updated_at": "2026-01-01T00:00:00.000000Z",
        "owner": begun["owner"],
        "tags": ["contract"],
        "metadata": {"number": "5"},
        "retention": "permanent",
        "expires_at": None,
    }
    return {"saga_id": begun["saga_id"], "attributes": {**attributes, **more}}


class Ingester:
    def __init__(self, admin: Any) -> None:
        self._admin = admin

    async def begin(self, *sagas: dict[str, str]) -> list[dict[str, Any]]:
        return await self._post("uploads", {"sagas": list(sagas)})

    async def commit(self, *commits: dict[str, Any]) -> list[dict[str, Any]]:
        return await self._post("commit", {"sagas": list(commits)})

    async def abort(self, *sagas: dict[str, str]) -> list[dict[str, Any]]:
        return await self._post("abort", {"sagas": list(sagas), "reason": "the client left"})

    async def _post(self, what: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        answer: httpx.Response = await self._admin.call("POST", f"/api/sagas/{what}", by="ingester", json=body)
        assert answer.status_code == 200, answer.text
        results: list[dict[str, Any]] = answer.json()["results"]
        return results


@pytest.fixture
def ingester(admin: Any) -> Ingester:
    return Ingester(admin)


async def state_of(admin: Any, one: dict[str, str]) -> str | None:
    rows = await admin.sql("SELECT state FROM files WHERE file_id = $1", one["file_id"])
    return rows[0]["state"] if rows else None


async def test_a_committed_upload_is_in_the_catalog_and_needs_no_event(admin: Any, ingester: Ingester) -> None:
    """No reader can have cached a new file."""
    one = saga()
    begun = {"saga_id": one["saga_id"], "state": "begun", "problem": None, "lease_s": 300.0}
    assert await ingester.begin(one) == [begun]
    assert await state_of(admin, one) is None
    assert (await ingester.commit(commit_of(one)))[0]["state"] == "committed"
    assert await state_of(admin, one) == "available"
    assert await admin.sql("SELECT FROM outbox WHERE message LIKE '%' || $1 || '%'", one["file_id"]) == []


async def test_every_call_may_be_repeated(admin: Any, ingester: Ingester) -> None:
    one = saga()
    for _ in range(2):
        assert (await ingester.begin(one))[0]["problem"] is None
    for _ in range(2):
        (result,) = await ingester.commit(commit_of(one))
        assert (result["state"], result["problem"]) == ("committed", None)
    (late,) = await ingester.begin(one)
    assert (late["state"], late["problem"]) == ("committed", None)


async def test_a_group_is_answered_one_by_one_in_its_order(ingester: Ingester) -> None:
    good, undone = saga(), saga()
    await ingester.begin(good, undone)
    await ingester.abort(undone)
    results = await ingester.commit(commit_of(undone), commit_of(good), commit_of(good))
    assert [result["saga_id"] for result in results] == [undone["saga_id"], good["saga_id"], good["saga_id"]]
    assert [result["problem"] is None for result in results] == [False, True, True]


async def test_a_row_that_postgresql_refuses_fails_no_other_upload_of_its_group(admin: Any, ingester: Ingester) -> None:
    good, bad = [saga() for _ in range(6)], saga()
    commits = [commit_of(one) for one in good]
    commits.insert(3, commit_of(bad, revision=2**40))
    results = await ingester.commit(*commits)
    refused = results.pop(3)
    assert (refused["problem"]["status"], refused["problem"]["code"]) == (422, "invalid_fields")
    assert [result["state"] for result in results] == ["committed"] * len(good)
    assert await state_of(admin, bad) is None
    assert (await ingester.abort(bad))[0]["state"] == "compensating"


async def test_a_commit_succeeds_without_its_begin(admin: Any, ingester: Ingester) -> None:
    one = saga()
    assert (await ingester.commit(commit_of(one)))[0]["state"] == "committed"
    assert await state_of(admin, one) == "available"


async def test_a_commit_of_a_saga_older_than_any_that_is_kept_is_refused(admin: Any, ingester: Ingester) -> None:
    one = saga(saga_id="01800000-0000-7000-8000-000000000001")
    (result,) = await ingester.commit(commit_of(one))
    assert result["problem"]["code"] == "conflict"
    assert await state_of(admin, one) is None


async def test_an_abort_after_the_commit_is_refused(admin: Any, ingester: Ingester) -> None:
    one = saga()
    await ingester.begin(one)
    await ingester.commit(commit_of(one))
    (result,) = await ingester.abort(one)
    assert (result["state"], result["problem"]["code"]) == ("committed", "conflict")
    assert await state_of(admin, one) == "available"


async def test_a_commit_after_the_abort_is_refused(admin: Any, ingester: Ingester) -> None:
    one = saga()
    await ingester.begin(one)
    await ingester.abort(one)
    (result,) = await ingester.commit(commit_of(one))
    assert result["problem"]["status"] == 409
    assert await state_of(admin, one) is None


async def test_a_saga_of_another_file_is_refused(ingester: Ingester) -> None:
    one = saga()
    await ingester.begin(one)
    for results in (
        await ingester.begin(saga(saga_id=one["saga_id"])),
        await ingester.commit(commit_of(saga(saga_id=one["saga_id"]))),
        await ingester.abort(saga(saga_id=one["saga_id"])),
    ):
        assert results[0]["problem"]["code"] == "conflict"


async def test_of_commit_and_abort_at_once_exactly_one_wins(admin: Any, ingester: Ingester) -> None:
    for _ in range(20):
        one = saga()
        await ingester.begin(one)
        (committed,), (aborted,) = await asyncio.gather(ingester.commit(commit_of(one)), ingester.abort(one))
        won = committed["problem"] is None
        assert won is (aborted["problem"] is not None)
        assert await state_of(admin, one) == ("available" if won else None)


async def test_concurrent_groups_with_the_same_sagas_do_not_deadlock(ingester: Ingester) -> None:
    many = [saga() for _ in range(40)]
    await asyncio.gather(*(ingester.begin(*many[::step]) for step in (1, -1, 3, -3)))
    commits = [commit_of(one) for one in many]
    for results in await asyncio.gather(*(ingester.commit(*commits[::step]) for step in (1, -1, 3, -3))):
        assert {result["state"] for result in results} == {"committed"}


@pytest.mark.parametrize("body", [{"sagas": []}, {"sagas": [saga() for _ in range(257)]}, {"sagas": [{}]}, {}])
async def test_an_invalid_group_of_sagas_is_refused(admin: Any, body: dict[str, Any]) -> None:
    answer = await admin.call("POST", "/api/sagas/uploads", by="ingester", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_fields")


@pytest.mark.parametrize(
    "wrong",
    [saga(saga_id="x"), saga(saga_id=str(uuid7()).upper()), saga(element_id="../etc"), saga(owner="a\x00b")],
)
async def test_a_wrong_saga_does_not_fail_the_others_of_its_group(
    admin: Any, ingester: Ingester, wrong: dict[str, str]
) -> None:
    good = saga()
    refused, begun = await ingester.begin(wrong, good)
    assert (refused["problem"]["code"], begun["problem"]) == ("invalid_fields", None)
    refused, committed = await ingester.commit(commit_of(wrong, revision=0), commit_of(good))
    assert (refused["problem"]["code"], committed["problem"]) == ("invalid_fields", None)
    assert await state_of(admin, good) == "available"


async def test_sagas_need_the_permission(admin: Any) -> None:
    for caller in ("boss", "se-01", "reader"):
        answer = await admin.call("POST", "/api/sagas/uploads", by=caller, json={"sagas": [saga()]})
        assert answer.status_code == 403


async def test_operators_see_sagas_newest_first(admin: Any, ingester: Ingester) -> None:
    now_ms = time.time_ns() // 1_000_000
    first, second = (saga(saga_id=str(uuid7(now_ms + later_ms))) for later_ms in (60_000, 60_001))
    await ingester.begin(second, first)
    newest = (await admin.call("GET", "/api/sagas", by="reader", params={"limit": 1})).json()
    assert newest["items"][0]["saga_id"] == second["saga_id"]
    following = await admin.call("GET", "/api/sagas", params={"limit": 1, "cursor": newest["next_cursor"]})
    assert following.json()["items"][0]["saga_id"] == first["saga_id"]
    shown = await admin.call("GET", f"/api/sagas/{first['saga_id']}")
    assert shown.json()["file_id"] == first["file_id"]

"""A database that was rolled back is detected, and the registry continues above every version that was seen."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec

from artstore.contracts.elements import SNAPSHOT_KEY, Snapshot


def body(element_id: str, *, files: int = 1, **catalog: Any) -> dict[str, Any]:
    capacity = {"total_bytes": 10, "used_bytes": 0, "available_bytes": 10, "files": files, "fill": "ok"}
    about = {"id": element_id, "url": "http://127.0.0.1:9", "mode": "rw", "backend": "local", "version": "0"}
    return {**about, "capacity": capacity, "catalog": catalog}


async def report(admin: Any, element_id: str, **catalog: Any) -> dict[str, Any]:
    path = f"/api/storage-elements/{element_id}/report"
    answer = await admin.call("POST", path, by=element_id, json=body(element_id, **catalog))
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["registry"])


def acknowledging(state: dict[str, Any]) -> dict[str, Any]:
    now = state["generation"]
    return {"generation": now, "reconciled": now, "version": state["version"], "version_generation": now}


async def snapshot(admin: Any) -> Snapshot:
    nothing = Snapshot(version=0, published_at="", elements=[])
    kept = await admin.redis.get(SNAPSHOT_KEY)
    return nothing if kept is None else msgspec.json.decode(kept, type=Snapshot)


async def of_generation(admin: Any, eventually: Any, generation: int) -> Snapshot:
    async def published() -> Snapshot | None:
        now = await snapshot(admin)
        return now if now.generation >= generation else None

    found: Snapshot = await eventually(published)
    return found


async def events(admin: Any) -> list[dict[str, Any]]:
    answer = await admin.call("GET", "/api/audit?action=catalog:generation&limit=1000", by="watcher")
    return list(answer.json()["items"])


async def test_a_lowered_version_is_raised_above_the_published_one(own_admin: Any, eventually: Any) -> None:
    admin = await own_admin()
    state = await report(admin, "se-01", empty=True)

    async def published() -> bool:
        return bool((await snapshot(admin)).version >= state["version"])

    await eventually(published)
    before = await snapshot(admin)
    await admin.sql("UPDATE registry SET version = version - 20000")
    now = await of_generation(admin, eventually, 2)
    assert now.version > before.version
    (event,) = await events(admin)
    assert event["metadata"]["before"]["generation"] == 1


async def test_a_restored_dump_is_detected_by_its_identity(own_admin: Any, eventually: Any) -> None:
    """A restored table has another oid, and a restored database another one."""
    admin = await own_admin()
    await report(admin, "se-01", empty=True)
    await admin.redis.flushdb()
    await admin.sql("UPDATE registry SET identity = '7/00000001/5/1'")
    now = await of_generation(admin, eventually, 2)
    assert not now.catalog_complete

    async def counted() -> bool:
        lines = (await admin.client.get("/metrics")).text.splitlines()
        return {"catalog_generation 2.0", "catalog_unreconciled_elements 1.0"} <= set(lines)

    assert await eventually(counted)


async def test_answers_that_are_lost_start_no_generation(own_admin: Any) -> None:
    admin = await own_admin()
    first = await report(admin, "se-01", empty=True)
    for _ in range(3):
        await report(admin, "se-01", **acknowledging(first))
    last = await report(admin, "se-01", **acknowledging(first))
    await report(admin, "se-01", **acknowledging(last))
    await report(admin, "se-01", **acknowledging(first))  # one that was on its way for long
    assert await events(admin) == []


async def test_a_history_that_the_element_saw_and_the_database_did_not_starts_a_generation(own_admin: Any) -> None:
    """The restored database has outgrown the version that the element remembers, with other answers."""
    admin = await own_admin()
    first = await report(admin, "se-01", empty=True)
    await report(admin, "se-02", empty=True)
    await report(admin, "se-02", empty=True)
    remembered = {**acknowledging(first), "version": first["version"] + 1}
    state = await report(admin, "se-01", **remembered)
    assert state["generation"] == 2
    assert (await report(admin, "se-01", **acknowledging(state)))["generation"] == 2


async def test_a_database_made_anew_is_a_new_generation_above_the_one_the_elements_knew(own_admin: Any) -> None:
    admin = await own_admin()
    known = {"generation": 5, "reconciled": 5, "version": 2**42, "version_generation": 5}
    state = await report(admin, "se-01", **known)
    assert state["generation"] == 6
    assert state["version"] > 2**42
    assert (await report(admin, "se-02", **known))["generation"] == 6
    assert len(await events(admin)) == 1


async def test_a_doubt_starts_one_generation(own_admin: Any) -> None:
    admin = await own_admin()
    first = await report(admin, "se-01", empty=True)
    doubting = {**acknowledging(first), "doubt": "the catalog has lost the file 1"}
    assert (await report(admin, "se-01", **doubting))["generation"] == 2
    assert (await report(admin, "se-01", **doubting))["generation"] == 2
    assert (await report(admin, "se-02", **doubting))["generation"] == 2


async def test_an_element_with_files_is_unreconciled_until_it_reports_otherwise(own_admin: Any) -> None:
    admin = await own_admin()

    async def generations() -> dict[str, int]:
        items = (await admin.call("GET", "/api/storage-elements")).json()["items"]
        return {one["id"]: one["generation"] for one in items}

    state = await report(admin, "se-01")
    await report(admin, "se-02", empty=True)
    assert await generations() == {"se-01": 0, "se-02": 1}
    await report(admin, "se-01", **acknowledging(state))
    assert await generations() == {"se-01": 1, "se-02": 1}


async def test_the_answer_to_a_report_carries_the_registry_version(own_admin: Any) -> None:
    admin = await own_admin()
    state = await report(admin, "se-01", empty=True)
    listed: httpx.Response = await admin.call("GET", "/api/storage-elements")
    assert (state["generation"], state["version"]) == (listed.json()["generation"], listed.json()["version"])

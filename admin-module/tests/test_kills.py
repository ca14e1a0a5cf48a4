"""admin is killed at each of its failpoints. The next one finds the change complete or not at all, and continues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from aiohttp import web

from artstore.clock import uuid7

QUICK = {"ELEMENT_CALL_TIMEOUT_S": "1"}


def new_saga() -> dict[str, str]:
    return {"saga_id": str(uuid7()), "file_id": str(uuid7()), "storage_element_id": "se-01", "owner": "boss"}


def record(saga: dict[str, str]) -> dict[str, Any]:
    moment = "2026-01-01T00:00:00.000000Z"
    return {
        "schema_version": 1, "file_id": saga["file_id"], "revision": 1, "filename": "a.txt", "content_type": "text/plain",
        "size_bytes": 3, "checksum": "sha256:" + "0" * 64, "storage_element_id": "se-01", "created_at": moment,
        "updated_at": moment, "owner": "boss", "tags": [], "metadata": {}, "retention": "permanent", "expires_at": None,
    }  # fmt: skip


async def killed_by(admin: Any, request: Any) -> None:
    """The request, or the work that it starts, kills the process, so the request gets no answer."""
    try:
        await request
    except httpx.TransportError:
        pass
    assert await asyncio.to_thread(admin.process.wait, 120) == -9


async def commit(admin: Any, saga: dict[str, str]) -> Any:
    body = {"sagas": [{"saga_id": saga["saga_id"], "attributes": record(saga)}]}
    return await admin.call("POST", "/api/sagas/commit", by="ingester", json=body)


async def look(admin: Any, saga: dict[str, str]) -> str:
    return str((await admin.call("GET", f"/api/sagas/{saga['saga_id']}")).json()["state"])


@pytest.mark.parametrize(("point", "found"), [("admin.commit_prepared", "begun"), ("admin.committed", "committed")])
async def test_a_killed_commit_is_atomic(own_admin: Any, point: str, found: str) -> None:
    armed, saga = await own_admin(ARTSTORE_POINT=f"{point}:kill"), new_saga()
    await armed.call("POST", "/api/sagas/uploads", by="ingester", json={"sagas": [saga]})
    await killed_by(armed, commit(armed, saga))
    admin = await own_admin()
    rows = await admin.sql("SELECT state FROM files WHERE file_id = $1", saga["file_id"])
    assert await look(admin, saga) == found
    assert [row["state"] for row in rows] == (["available"] if found == "committed" else [])
    # the ingester, which got no answer, asks again
    assert (await commit(admin, saga)).json()["results"][0]["state"] == "committed"
    rows = await admin.sql("SELECT state FROM files WHERE file_id = $1", saga["file_id"])
    assert [row["state"] for row in rows] == ["available"]


@pytest.mark.parametrize(("point", "made"), [("admin.commit_prepared", False), ("admin.committed", True)])
async def test_a_killed_commit_of_a_batch_is_atomic(own_admin: Any, point: str, made: bool) -> None:
    armed, sagas = await own_admin(ARTSTORE_POINT=f"{point}:kill"), [new_saga() for _ in range(300)]
    body = {"sagas": [{"saga_id": saga["saga_id"], "attributes": record(saga)} for saga in sagas]}
    await killed_by(armed, armed.call("POST", "/api/sagas/commit-batch", by="ingester", json=body))
    admin = await own_admin()
    count = "SELECT count(*) AS files FROM files WHERE state = 'available'"
    assert (await admin.sql(count))[0]["files"] == (300 if made else 0)
    assert (await admin.call("POST", "/api/sagas/commit-batch", by="ingester", json=body)).status_code == 200
    assert (await admin.sql(count))[0]["files"] == 300


async def test_a_killed_indexing_is_repeated(own_admin: Any, eventually: Any) -> None:
    armed, sagas = await own_admin(ARTSTORE_POINT="admin.index_written:kill"), [new_saga() for _ in range(50)]
    body = {"sagas": [{"saga_id": saga["saga_id"], "attributes": record(saga)} for saga in sagas]}
    await armed.call("POST", "/api/sagas/uploads", by="ingester", json={"sagas": sagas})
    await killed_by(armed, armed.call("POST", "/api/sagas/commit-batch", by="ingester", json=body))
    assert await armed.sql("SELECT file_id FROM file_search") == []
    admin = await own_admin()

    async def indexed() -> bool:
        missing = "SELECT FROM files LEFT JOIN file_search USING (file_id, revision) WHERE words IS NULL"
        return not await admin.sql(missing)

    await eventually(indexed)
    assert (await admin.sql("SELECT count(*) AS files FROM file_search"))[0]["files"] == 50


@pytest.fixture
async def element() -> AsyncIterator[tuple[str, list[str]]]:
    """(url, the files it was asked to remove)."""
    removed: list[str] = []

    async def delete(request: web.Request) -> web.Response:
        removed.append(request.match_info["file_id"])
        return web.Response(status=204)

    app = web.Application()
    app.router.add_delete("/api/files/{file_id}", delete)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", removed
    await runner.cleanup()


@pytest.mark.parametrize(("point", "times"), [("admin.saga_claimed", 1), ("admin.saga_undone", 2)])
async def test_a_killed_compensation_is_done_again(
    own_admin: Any, element: Any, eventually: Any, point: str, times: int
) -> None:
    armed, saga = await own_admin(ARTSTORE_POINT=f"{point}:kill", **QUICK), new_saga()
    url, removed = element
    capacity = {"total_bytes": 10, "used_bytes": 0, "available_bytes": 10, "files": 0, "fill": "ok"}
    report = {"id": "se-01", "url": url, "mode": "rw", "backend": "local", "version": "0", "capacity": capacity}
    announced = await armed.call("POST", "/api/storage-elements/se-01/report", by="se-01", json=report)
    assert announced.status_code == 200, announced.text
    await armed.call("POST", "/api/sagas/uploads", by="ingester", json={"sagas": [saga]})
    body = {"sagas": [saga], "reason": "the client left"}
    await killed_by(armed, armed.call("POST", "/api/sagas/abort", by="ingester", json=body))
    admin = await own_admin(**QUICK)

    async def undone() -> bool:
        return await look(admin, saga) == "compensated"

    await eventually(undone)
    assert removed == [saga["file_id"]] * times


async def test_a_killed_rotation_leaves_the_keys_as_they_were(own_admin: Any) -> None:
    armed = await own_admin(ARTSTORE_POINT="admin.keys_rotated:kill:2")  # the first makes the first keys
    before = await armed.sql("SELECT kid, state FROM signing_keys ORDER BY kid")
    token = await armed.token("boss")
    await killed_by(armed, armed.call("POST", "/api/auth/keys/rotate"))
    admin = await own_admin()
    assert await admin.sql("SELECT kid, state FROM signing_keys ORDER BY kid") == before
    rotated = await admin.client.post("/api/auth/keys/rotate", headers={"authorization": f"Bearer {token}"})
    assert sorted(key["state"] for key in rotated.json()["items"]) == ["active", "next", "retiring"]
    assert (await admin.call("GET", "/api/audit/verify")).json()["findings"] == []


@pytest.mark.parametrize("point", ["audit.spooled", "audit.shipped"])
async def test_a_killed_writer_loses_no_event_and_writes_none_twice(
    own_admin: Any, eventually: Any, point: str
) -> None:
    armed = await own_admin(ARTSTORE_POINT=f"{point}:kill")
    await killed_by(armed, armed.client.get("/api/audit"))
    admin = await own_admin()

    async def there() -> list[Any]:
        params = {"action": "access:denied"}
        found: list[Any] = (await admin.call("GET", "/api/audit", params=params)).json()["items"]
        return found

    await eventually(there)
    await admin.client.get("/api/audit")

    async def both() -> bool:
        return len(await there()) == 2

    await eventually(both)
    assert [event["seq"] for event in await there()] == [2, 1]
    assert (await admin.call("GET", "/api/audit/verify")).json()["findings"] == []

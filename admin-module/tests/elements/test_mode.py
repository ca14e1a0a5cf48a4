from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from artstore.errors import ModeForbids
from artstore.testing.services import free_port


@pytest.fixture
async def element(admin: Any) -> AsyncIterator[dict[str, Any]]:
    """An element that takes `ro` and refuses every other mode."""
    asked: dict[str, Any] = {"bodies": [], "authorization": ""}

    async def change(request: web.Request) -> web.Response:
        body = await request.json()
        asked["bodies"].append(body)
        asked["authorization"] = request.headers["authorization"]
        if body["mode"] != "ro":
            refusal = ModeForbids("rw goes to ro only")
            return web.Response(body=refusal.to_wire(), status=409, content_type="application/problem+json")
        return web.json_response(body)

    app = web.Application()
    app.router.add_post("/api/element/mode", change)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    capacity = {"total_bytes": 1, "used_bytes": 0, "available_bytes": 1, "files": 0, "fill": "ok"}
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    body = {"id": "se-01", "url": url, "mode": "rw", "mode_forced": True, "backend": "local", "version": "0",
            "capacity": capacity}  # fmt: skip
    await admin.call("POST", "/api/storage-elements/se-01/report", by="se-01", json=body)
    yield asked
    await runner.cleanup()


async def test_a_mode_change_goes_to_the_element_and_then_into_the_registry(admin: Any, element: Any) -> None:
    answer = await admin.call("POST", "/api/storage-elements/se-01/mode", json={"mode": "ro"})
    assert (answer.status_code, answer.json()["mode"]) == (200, "ro")
    assert element["bodies"] == [{"mode": "ro"}]
    assert element["authorization"].startswith("Bearer ey")
    (event,) = (await admin.call("GET", "/api/audit", params={"limit": 1})).json()["items"]
    assert (event["action"], event["user_id"], event["metadata"]) == (
        "element:mode",
        await admin.account_id("boss"),
        {"mode": "ro"},
    )


async def test_a_mode_that_the_element_refuses_is_refused_with_its_words(admin: Any, element: Any) -> None:
    answer = await admin.call("POST", "/api/storage-elements/se-01/mode", json={"mode": "edit"})
    assert (answer.status_code, answer.json()["code"]) == (409, "mode_forbids")
    assert answer.json()["detail"] == "rw goes to ro only"
    assert (await admin.call("GET", "/api/storage-elements/se-01")).json()["mode"] == "rw"
    (event,) = (await admin.call("GET", "/api/audit", params={"limit": 1})).json()["items"]
    assert (event["action"], event["result"]) == ("element:mode", "failure")


async def test_an_unknown_element_or_mode_is_refused(admin: Any) -> None:
    unknown = await admin.call("POST", "/api/storage-elements/se-99/mode", json={"mode": "ro"})
    wrong = await admin.call("POST", "/api/storage-elements/se-01/mode", json={"mode": "up"})
    assert (unknown.status_code, wrong.status_code) == (404, 422)


async def announce(admin: Any, element_id: str, url: str, mode: str) -> None:
    capacity = {"total_bytes": 1, "used_bytes": 0, "available_bytes": 1, "files": 0, "fill": "ok"}
    body: dict[str, Any] = {
        "id": element_id,
        "url": url,
        "mode": mode,
        "backend": "local",
        "version": "0",
        "capacity": capacity,
    }
    body["mode_forced"] = True  # tests share one admin, and each begins in the mode that it says
    answer = await admin.call("POST", f"/api/storage-elements/{element_id}/report", by=element_id, json=body)
    assert answer.status_code == 200, answer.text


async def test_an_element_that_is_away_takes_its_mode_later(admin: Any, element: Any, eventually: Any) -> None:
    path, there = "/api/storage-elements/se-01", (await admin.call("GET", "/api/storage-elements/se-01")).json()["url"]
    await announce(admin, "se-01", f"http://127.0.0.1:{free_port()}", "rw")
    queued = await admin.call("POST", f"{path}/mode", json={"mode": "ro"})
    assert (queued.status_code, queued.json()["state"], queued.json()["wanted"]) == (202, "queued", {"mode": "ro"})
    assert queued.headers["location"] == f"/api/sagas/{queued.json()['saga_id']}"
    again = await admin.call("POST", f"{path}/mode", json={"mode": "ro"})
    assert (again.status_code, again.json()["saga_id"]) == (202, queued.json()["saga_id"])
    await announce(admin, "se-01", there, "rw")

    async def changed() -> bool:
        return bool((await admin.call("GET", path)).json()["mode"] == "ro")

    await eventually(changed)
    assert element["bodies"] == [{"mode": "ro"}]
    params = {"resource": "se-01", "user_id": await admin.account_id("boss"), "limit": "2"}
    events = (await admin.call("GET", "/api/audit", params=params)).json()["items"]
    assert [(event["action"], event["result"]) for event in events] == [
        ("element:mode", "success"),
        ("element:queue-mode", "success"),
    ]
    made = {"mode": "ro", "saga_id": queued.json()["saga_id"], "storage_element": "se-01"}
    assert events[0]["metadata"] == made


async def test_a_queued_mode_is_closed_while_its_element_reports(admin: Any, element: Any, eventually: Any) -> None:
    """A report locks the registry, then the sagas that become due: a worker must take the locks in the same order."""
    there = (await admin.call("GET", "/api/storage-elements/se-01")).json()["url"]
    await announce(admin, "se-01", f"http://127.0.0.1:{free_port()}", "rw")
    queued = (await admin.call("POST", "/api/storage-elements/se-01/mode", json={"mode": "ro"})).json()
    report = await asyncpg.connect(admin.database_url.replace("+asyncpg", ""))
    # a worker for which it is time to write this down would wait for the registry before it claims
    await admin.sql("UPDATE registry SET attended_at = clock_timestamp()")
    try:
        async with report.transaction():
            await report.execute("UPDATE registry SET version = version + 1")
            await admin.sql("UPDATE storage_elements SET url = $1 WHERE element_id = 'se-01'", there)
            await admin.sql("UPDATE sagas SET due_at = now() WHERE saga_id = $1", queued["saga_id"])

            async def closing() -> bool:
                return bool(element["bodies"] and await admin.sql("SELECT FROM pg_locks WHERE NOT granted"))

            await eventually(closing)
            await report.execute("SELECT FROM sagas WHERE saga_id = $1 FOR UPDATE NOWAIT", queued["saga_id"])
    finally:
        await report.close()

    async def closed() -> bool:
        answer = await admin.call("GET", f"/api/sagas/{queued['saga_id']}")
        return bool(answer.json()["state"] == "committed")

    await eventually(closed)


@pytest.mark.parametrize(
    ("has", "wanted", "status"),
    [
        ("edit", "ro", 409),
        ("rw", "edit", 409),
        ("rw", "ar", 409),
        ("ar", "ro", 409),
        ("ro", "ro", 200),
        ("ro", "ar", 202),
    ],
)
async def test_a_mode_change_that_can_never_apply_is_refused_at_once(
    admin: Any, has: str, wanted: str, status: int
) -> None:
    await announce(admin, "se-02", f"http://127.0.0.1:{free_port()}", has)
    answer = await admin.call("POST", "/api/storage-elements/se-02/mode", json={"mode": wanted})
    assert answer.status_code == status, answer.text
    await admin.sql("DELETE FROM sagas WHERE storage_element_id = 'se-02' AND kind = 'mode'")

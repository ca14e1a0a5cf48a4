from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from artstore.errors import ModeForbids


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
    body = {"id": "se-01", "url": url, "mode": "rw", "backend": "local", "version": "0", "capacity": capacity}
    await admin.call("POST", "/api/storage-elements/se-01/report", by="se-01", json=body)
    yield asked
    await runner.cleanup()


async def test_a_mode_change_goes_to_the_element_and_then_into_the_registry(admin: Any, element: Any) -> None:
    answer = await admin.call("POST", "/api/storage-elements/se-01/mode", json={"mode": "ro"})
    assert (answer.status_code, answer.json()["mode"]) == (200, "ro")
    assert element["bodies"] == [{"mode": "ro"}]
    assert element["authorization"].startswith("Bearer ey")
    (event,) = (await admin.call("GET", "/api/audit", params={"limit": 1})).json()["items"]
    assert (event["action"], event["user_id"], event["metadata"]) == ("element.mode", "boss", {"mode": "ro"})


async def test_a_mode_that_the_element_refuses_is_refused_with_its_words(admin: Any, element: Any) -> None:
    answer = await admin.call("POST", "/api/storage-elements/se-01/mode", json={"mode": "edit"})
    assert (answer.status_code, answer.json()["code"]) == (409, "mode_forbids")
    assert answer.json()["detail"] == "rw goes to ro only"
    assert (await admin.call("GET", "/api/storage-elements/se-01")).json()["mode"] == "rw"
    (event,) = (await admin.call("GET", "/api/audit", params={"limit": 1})).json()["items"]
    assert (event["action"], event["result"]) == ("element.mode", "failed")


async def test_an_unknown_element_or_mode_is_refused(admin: Any) -> None:
    unknown = await admin.call("POST", "/api/storage-elements/se-99/mode", json={"mode": "ro"})
    wrong = await admin.call("POST", "/api/storage-elements/se-01/mode", json={"mode": "up"})
    assert (unknown.status_code, wrong.status_code) == (404, 422)

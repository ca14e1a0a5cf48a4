"""Elements as admin meets them: small HTTP servers that remember what they were asked to remove, and announce themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web


@dataclass(slots=True)
class RemoteElement:
    """Answers DELETE of a file with `answers`, 204 unless told otherwise."""

    element_id: str
    url: str = ""
    status: int = 204
    removed: list[tuple[str, str]] = field(default_factory=list)

    async def delete(self, request: web.Request) -> web.Response:
        if self.status == 204:
            self.removed.append((request.match_info["file_id"], request.headers["x-artstore-saga"]))
        return web.Response(status=self.status)

    def report(self) -> dict[str, Any]:
        capacity = {"total_bytes": 10, "used_bytes": 0, "available_bytes": 10, "files": 0, "fill": "ok"}
        return {
            "id": self.element_id,
            "url": self.url,
            "mode": "rw",
            "backend": "local",
            "version": "0",
            "capacity": capacity,
        }


@pytest.fixture
async def element(admin: Any) -> AsyncIterator[Callable[[str], Any]]:
    """Opens an element of the id given, and announces it."""
    runners: list[web.AppRunner] = []

    async def open_one(element_id: str) -> RemoteElement:
        remote = RemoteElement(element_id)
        app = web.Application()
        app.router.add_delete("/api/files/{file_id}", remote.delete)
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        remote.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        path = f"/api/storage-elements/{element_id}/report"
        answer = await admin.call("POST", path, by=element_id, json=remote.report())
        assert answer.status_code == 200
        return remote

    yield open_one
    for runner in runners:
        await runner.cleanup()

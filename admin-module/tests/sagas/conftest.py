"""Fake elements: small HTTP servers that record requests and report to admin."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from artstore.contracts.storage import ACCOUNT_HEADER, CONFIRMED_REASON
from artstore.errors import ArtStoreError, Conflict, NotFound, RevisionMismatch

REMOVED: list[tuple[str, str]] = []
"""(element, file) of every compensation, over all elements in order."""


@dataclass(slots=True)
class RemoteElement:
    """Answers a compensation with `status`. Files in `files` can be changed and deleted."""

    element_id: str
    url: str = ""
    status: int = 204
    removed: list[tuple[str, str]] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    confirmed: set[str] = field(default_factory=set)
    """Files that it refuses to remove for any saga."""
    changed: list[str] = field(default_factory=list)
    """"PATCH [1]" and the like, as they were made."""
    accounts: list[str] = field(default_factory=list)
    """On whose behalf the changes were sent."""
    lose_answers: int = 0
    """This many changes are applied without an answer."""
    asked: int = 0
    at_once: int = 0
    most_at_once: int = 0

    async def delete(self, request: web.Request) -> web.Response:
        if "x-artstore-saga" not in request.headers:
            return await self._change(request)
        if request.match_info["file_id"] in self.confirmed:
            return refusal(Conflict("the element keeps this file", reason=CONFIRMED_REASON))
        if self.status == 204:
            self.removed.append((request.match_info["file_id"], request.headers["x-artstore-saga"]))
            REMOVED.append((self.element_id, request.match_info["file_id"]))
        return web.Response(status=self.status)

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response(status=200 if self.status == 204 else 503)

    async def get(self, request: web.Request) -> web.Response:
        if self.status != 204:
            return web.Response(status=self.status)
        found = self.files.get(request.match_info["file_id"])
        return refusal(NotFound()) if found is None else web.json_response(found)

    async def patch(self, request: web.Request) -> web.Response:
        return await self._change(request)

    async def _change(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.accounts.append(request.headers[ACCOUNT_HEADER])
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.01)
        self.at_once -= 1
        file_id = request.match_info["file_id"]
        found = self.files.get(file_id)
        if self.status != 204:
            return web.Response(status=self.status)
        if found is None:
            return refusal(NotFound())
        condition = request.headers.get("if-match")
        if condition is not None and f'"{found["revision"]}"' not in condition.split(", "):
            return refusal(RevisionMismatch(revision=found["revision"]))
        body = await request.read()
        if request.method == "DELETE":
            del self.files[file_id]
        else:
            self.files[file_id] = {**found, **json.loads(body), "revision": found["revision"] + 1}
        self.changed.append(f"{request.method} {body.decode()}".strip())
        if self.lose_answers:
            self.lose_answers -= 1
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(self.files.get(file_id))

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


def refusal(error: ArtStoreError) -> web.Response:
    return web.Response(body=error.to_wire(), status=error.status, content_type="application/problem+json")


@pytest.fixture
async def element(admin: Any) -> AsyncIterator[Callable[[str], Any]]:
    """Starts an element with the given id and reports it."""
    runners: list[web.AppRunner] = []

    async def open_one(element_id: str) -> RemoteElement:
        remote = RemoteElement(element_id)
        app = web.Application()
        app.router.add_delete("/api/files/{file_id}", remote.delete)
        app.router.add_get("/api/files/{file_id}", remote.get)
        app.router.add_patch("/api/files/{file_id}", remote.patch)
        app.router.add_get("/health/ready", remote.health)
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

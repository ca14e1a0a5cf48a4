"""Fakes of admin and of elements over real sockets.

They keep the contracts (artstore.contracts) and can refuse, stall or break off at a chosen point, which the real ones cannot.
The tests of the whole system use the real ones.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import orjson
import uvicorn
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from artstore.contracts.elements import Capacity, Element, Fill, Mode
from artstore.contracts.files import NewFile
from artstore.contracts.idempotency import Answer, accepted, uploaded
from artstore.contracts.sagas import (
    AbortUploads,
    BeginUploads,
    CommitUploads,
    QueueChange,
    SagaResult,
    SagaResults,
    UploadCommit,
    UploadSaga,
)
from artstore.contracts.storage import (
    NEW_FILE_HEADER,
    PUT_GROUP_PATH,
    SAGA_HEADER,
    GroupedPut,
    GroupedResult,
    decode_new_file,
    decode_puts,
    encode_group,
)
from artstore.contracts.tokens import Permission, Role, TokenAnswer
from artstore.errors import ArtStoreError, Conflict, DigestMismatch, NotFound, RevisionMismatch
from artstore.http.conditions import if_match, revisions_in
from artstore.http.json import JsonResponse
from artstore.http.problems import install_problem_handlers
from artstore.testing.tokens import Signer

OWN = frozenset({Permission.STORAGE_READ, Permission.STORAGE_WRITE, Permission.SAGAS_WRITE, Permission.ELEMENTS_READ})


@asynccontextmanager
async def served(routes: Sequence[Route], port: int = 0) -> AsyncIterator[str]:
    """Serves the routes with uvicorn on a free port; yields the base URL."""
    app = FastAPI()
    install_problem_handlers(app)
    app.router.routes.extend(routes)
    async with served_app(app, port) as url:
        yield url


@asynccontextmanager
async def served_app(app: FastAPI, port: int = 0) -> AsyncIterator[str]:
    config = uvicorn.Config(
        app, port=port, log_config=None, ws="none", timeout_keep_alive=75, timeout_graceful_shutdown=1, access_log=False
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        if serving.done():
            serving.result()
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


class ScriptedAdmin:
    """Records its requests. `fail[path]` holds errors for the next calls of that path. `keep` stores the answer of a keyed
    saga and returns False when the key belongs to a different saga."""

    def __init__(self, signer: Signer, keep: Callable[[str, Answer], Awaitable[bool]]) -> None:
        self.signer, self.keep = signer, keep
        self.elements: list[Element] = []
        self.fail: dict[str, list[ArtStoreError]] = {}
        self.refuse_commit: ArtStoreError | None = None
        self.begun: list[UploadSaga] = []
        self.committed: list[UploadCommit] = []
        self.aborted: list[UploadSaga] = []
        self.queued: list[dict[str, Any]] = []
        self.requests = 0
        self.listed = 0

    def reset(self) -> None:
        self.fail.clear()
        self.refuse_commit = None
        self.requests = 0
        for seen in (self.begun, self.committed, self.aborted, self.queued):
            seen.clear()

    @property
    def routes(self) -> list[Route]:
        return [
            Route("/api/auth/token", self._token, methods=["POST"]),
            Route("/.well-known/jwks.json", self._jwks),
            Route("/api/storage-elements", self._list),
            Route("/api/sagas/uploads", self._begin, methods=["POST"]),
            Route("/api/sagas/commit", self._commit, methods=["POST"]),
            Route("/api/sagas/abort", self._abort, methods=["POST"]),
            Route("/api/sagas/changes", self._queue, methods=["POST"]),
        ]

    async def _token(self, _request: Request) -> Response:
        return JsonResponse(TokenAnswer(access_token=self.signer.token(Role.SERVICE, OWN)))

    async def _jwks(self, _request: Request) -> Response:
        return JsonResponse(self.signer.jwks())

    async def _list(self, _request: Request) -> Response:
        self.listed += 1
        listed = {"items": self.elements, "next_cursor": None, "version": self.listed, "published_at": ""}
        return JsonResponse(listed)

    async def _begin(self, request: Request) -> Response:
        sagas = msgspec.json.decode(await self._body(request), type=BeginUploads).sagas
        self.begun.extend(sagas)
        return _results([SagaResult(saga_id=saga.saga_id, state="begun") for saga in sagas])

    async def _commit(self, request: Request) -> Response:
        sagas = msgspec.json.decode(await self._body(request), type=CommitUploads).sagas
        if self.refuse_commit is not None:
            problem = orjson.loads(self.refuse_commit.to_wire())
            return _results([SagaResult(saga_id=saga.saga_id, state="aborted", problem=problem) for saga in sagas])
        results = []
        for saga in sagas:
            record = orjson.dumps(saga.attributes, option=orjson.OPT_SORT_KEYS)
            if saga.keyed and not await self.keep(saga.saga_id, uploaded(saga.attributes["file_id"], record)):
                problem = orjson.loads(Conflict("the key belongs to a different saga").to_wire())
                results.append(SagaResult(saga_id=saga.saga_id, state="begun", problem=problem))
                continue
            self.committed.append(saga)
            results.append(SagaResult(saga_id=saga.saga_id, state="committed"))
        return _results(results)

    async def _abort(self, request: Request) -> Response:
        sagas = msgspec.json.decode(await self._body(request), type=AbortUploads).sagas
        self.aborted.extend(sagas)
        return _results([SagaResult(saga_id=saga.saga_id, state="aborting") for saga in sagas])

    async def _queue(self, request: Request) -> Response:
        body = await self._body(request)
        change = msgspec.json.decode(body, type=QueueChange)
        saga = orjson.dumps({"saga_id": change.saga_id, "state": "queued"})
        if change.keyed and not await self.keep(change.saga_id, accepted(change.saga_id, saga)):
            raise Conflict("the key belongs to a different saga")
        self.queued.append(orjson.loads(body))
        return JsonResponse(saga, 202)

    async def _body(self, request: Request) -> bytes:
        self.requests += 1
        if waiting := self.fail.get(request.url.path):
            raise waiting.pop(0)
        return await request.body()


class ScriptedElement:
    """Keeps files in a dict. `refuse` is answered before the body is read, `fail_after` in the middle of it.

    `refuse_named` holds errors about single files, by their name. `hold` delays groups until it is set.
    """

    def __init__(self, name: str, mode: Mode = Mode.RW, priority: int = 10) -> None:
        self.name, self.mode, self.priority = name, mode, priority
        self.url = ""
        self.reset()

    def reset(self) -> None:
        self.files: dict[str, tuple[bytes, dict[str, Any]]] = {}
        self.refuse: ArtStoreError | None = None
        self.fail_after: int | None = None
        self.fail_with: ArtStoreError | None = None
        self.lie: dict[str, Any] = {}
        self.stalled = False
        self.refuse_named: dict[str, ArtStoreError] = {}
        self.hold: asyncio.Event | None = None
        self.groups: list[list[GroupedPut]] = []
        self.asked = 0
        self.cut_off = 0
        self.headers: dict[str, str] = {}

    def entry(self, **fields: Any) -> Element:
        capacity = Capacity(total_bytes=2**50, used_bytes=0, available_bytes=2**49, files=0, fill=Fill.OK)
        known: dict[str, Any] = {
            "id": self.name,
            "url": self.url,
            "mode": self.mode,
            "backend": "local",
            "version": "0",
            "capacity": capacity,
            "priority": self.priority,
            "status": "online",
            "last_seen_at": "",
            "registered_at": "",
        }
        return Element(**{**known, **fields})

    @property
    def routes(self) -> list[Route]:
        return [
            Route(PUT_GROUP_PATH, self._put_group, methods=["POST"]),
            Route("/api/files/{file_id}", self._put, methods=["PUT"]),
            Route("/api/files/{file_id}", self._get, methods=["GET"]),
            Route("/api/files/{file_id}", self._patch, methods=["PATCH"]),
            Route("/api/files/{file_id}", self._delete, methods=["DELETE"]),
            Route("/api/files/{file_id}/content", self._replace, methods=["PUT"]),
        ]

    async def _put(self, request: Request) -> Response:
        body = await self._body(request)
        assert request.headers[SAGA_HEADER]
        new = decode_new_file(request.headers[NEW_FILE_HEADER])
        return JsonResponse(self._keep(request.path_params["file_id"], new, body), 201)

    async def _put_group(self, request: Request) -> Response:
        puts = list(decode_puts(await self._body(request)))
        self.groups.append(puts)
        if self.hold is not None:
            await self.hold.wait()
        return Response(encode_group([self._put_one(put) for put in puts]))

    def _put_one(self, put: GroupedPut) -> GroupedResult:
        error = self.refuse_named.get(put.new.filename)
        if put.sha256 not in (None, hashlib.sha256(put.content).digest()):
            error = DigestMismatch()
        if put.md5 not in (None, hashlib.md5(put.content, usedforsecurity=False).digest()):
            error = DigestMismatch()
        if error is not None:
            return GroupedResult(error.status, error.to_wire())
        return GroupedResult(201, orjson.dumps(self._keep(put.file_id, put.new, put.content)))

    def _keep(self, file_id: str, new: NewFile, body: bytes) -> dict[str, Any]:
        record = {
            "schema_version": 1,
            "file_id": file_id,
            "revision": 1,
            "size_bytes": len(body),
            "checksum": f"sha256:{hashlib.sha256(body).hexdigest()}",
            "storage_element_id": self.name,
            "created_at": "2026-01-01T00:00:00.000000Z",
            "updated_at": "2026-01-01T00:00:00.000000Z",
            **msgspec.to_builtins(new),
            **self.lie,
        }
        self.files[file_id] = (body, record)
        return record

    async def _body(self, request: Request) -> bytes:
        """The whole body, or the failure that the test asks for."""
        self.asked += 1
        self.headers = dict(request.headers)
        if self.refuse is not None:
            raise self.refuse
        if self.stalled:
            await asyncio.sleep(60)
        body = b""
        try:
            async for chunk in request.stream():
                body += chunk
                if self.fail_after is not None and len(body) > self.fail_after:
                    assert self.fail_with is not None
                    raise self.fail_with
        except ClientDisconnect:
            self.cut_off += 1
            raise
        stated = request.headers.get("repr-digest", "")
        if stated and stated != f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:":
            raise DigestMismatch()
        return body

    async def _get(self, request: Request) -> Response:
        return JsonResponse((await self._load(request))[1])

    async def _patch(self, request: Request) -> Response:
        body, record = await self._load(request)
        changed = {**record, **orjson.loads(await request.body()), "revision": record["revision"] + 1}
        self.files[record["file_id"]] = (body, changed)
        return JsonResponse(changed, headers={"etag": f'"{changed["revision"]}"'})

    async def _replace(self, request: Request) -> Response:
        _, record = await self._load(request)
        body = await self._body(request)
        checksum = f"sha256:{hashlib.sha256(body).hexdigest()}"
        changed = {**record, "size_bytes": len(body), "checksum": checksum, "revision": record["revision"] + 1}
        self.files[record["file_id"]] = (body, changed)
        return JsonResponse(changed, headers={"etag": f'"{changed["revision"]}"'})

    async def _delete(self, request: Request) -> Response:
        del self.files[(await self._load(request))[1]["file_id"]]
        return Response(status_code=204)

    async def _load(self, request: Request) -> tuple[bytes, dict[str, Any]]:
        self.headers = dict(request.headers)
        self.asked += 1
        if self.stalled:
            await asyncio.sleep(60)
        if self.refuse is not None:
            raise self.refuse
        kept = self.files.get(request.path_params["file_id"])
        if kept is None:
            raise NotFound("no such file")
        revision = kept[1]["revision"]
        tags = if_match(request.headers.getlist("if-match"))
        if tags is not None and revision not in revisions_in(tags):
            raise RevisionMismatch("a different revision", revision=revision)
        return kept


def _results(results: list[SagaResult]) -> Response:
    return JsonResponse(SagaResults(results=results))

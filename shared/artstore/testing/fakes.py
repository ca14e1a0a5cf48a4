"""Fakes of the neighbouring services, admin and storage elements, over real sockets.

They keep the contracts, record their requests, and can refuse, stall or break off at a chosen point, which the real
services cannot. Tests of the whole system use the real ones.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import msgspec
import orjson
from aiohttp import web

from artstore.auth.links import LinkOrder, LinkOrderKey, SignedLink
from artstore.clock import Clock, rfc3339, uuid7
from artstore.contracts.elements import MAKE_ROOT, Capacity, Element, ElementReport, Fill, Mode, Snapshot
from artstore.contracts.files import Attributes, NewFile, encode
from artstore.contracts.idempotency import Answer, accepted, batch_uploaded, uploaded
from artstore.contracts.sagas import (
    AbortClaim,
    AbortUploads,
    BeginUploads,
    Claimed,
    CommitBatch,
    CommitUploads,
    QueueChange,
    SagaResult,
    SagaResults,
    UploadCommit,
    UploadSaga,
)
from artstore.contracts.storage import (
    FILES_HEADER,
    NEW_FILE_HEADER,
    PUT_GROUP_PATH,
    SAGA_HEADER,
    SMALL_FILE_BYTES,
    FileRead,
    GroupedPut,
    GroupedResult,
    ReadRefused,
    decode_new_file,
    decode_puts,
    encode_group,
    encode_reads,
)
from artstore.contracts.tokens import Role, TokenAnswer
from artstore.errors import (
    ArtStoreError,
    Conflict,
    DigestMismatch,
    InvalidFields,
    Malformed,
    NotFound,
    Quarantined,
    RevisionMismatch,
    Unavailable,
)
from artstore.http.conditions import if_match, revisions_in
from artstore.testing.tokens import Signer

MAX_BODY_BYTES = 1 << 30
STALL_S = 60
CHUNK_BYTES = 1 << 16


class Fake(ABC):
    """An HTTP server in this process. Its port is reserved from the construction on."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._runner: web.AppRunner | None = None

    @abstractmethod
    def routes(self) -> Sequence[web.RouteDef]: ...

    async def start(self) -> None:
        app = web.Application(middlewares=[_answer_errors], client_max_size=MAX_BODY_BYTES)
        app.add_routes(self.routes())
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()

    async def stop(self) -> None:
        """Does nothing if the server has been stopped already."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            self._socket.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        await self.start()
        try:
            yield self
        finally:
            await self.stop()


class FakeAdmin(Fake):
    """Issues tokens, lists `elements`, and records sagas and reports.

    `fail[path]` holds errors for the next calls of that path. `keep` stores the answer of a keyed saga and returns
    False when the key belongs to a different saga.
    """

    def __init__(self, signer: Signer, keep: Callable[[str, Answer], Awaitable[bool]] | None = None) -> None:
        super().__init__()
        self.signer, self.keep = signer, keep
        self.elements: list[Element] = []
        self.links_by_key: dict[LinkOrderKey, SignedLink] = {}
        self.listed = 0
        self.unavailable_reports = 0
        """The number of reports that are answered 503 first."""
        self.mode: Mode | None = None
        """The mode in the registry; None: the reported one."""
        self.refuse_report: Callable[[ElementReport], ArtStoreError | None] | None = None
        """Admin's verdict on a report; None: every root is accepted, and may be made."""
        self.reset()

    def reset(self) -> None:
        self.fail: dict[str, list[ArtStoreError]] = {}
        self.refuse_commit: ArtStoreError | None = None
        self.requests = 0
        self.begun: list[UploadSaga] = []
        self.committed: list[UploadCommit] = []
        self.batches: list[CommitBatch] = []
        self.aborted: list[UploadSaga] = []
        self.queued: list[dict[str, Any]] = []
        self.claimed: dict[str, str] = {}
        """Saga ids by the ids that clients made."""
        self.reports: list[ElementReport] = []

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.post("/api/auth/token", self._token),
            web.get("/.well-known/jwks.json", self._jwks),
            web.post("/api/auth/links", self._link),
            web.get("/api/storage-elements", self._list),
            web.post("/api/storage-elements/{element_id}/report", self._report),
            web.post("/api/sagas/uploads", self._begin),
            web.post("/api/sagas/commit", self._commit),
            web.post("/api/sagas/commit-batch", self._commit_batch),
            web.post("/api/sagas/abort", self._abort),
            web.post("/api/sagas/changes", self._queue),
            web.post("/api/sagas/claims", self._claim),
            web.post("/api/sagas/claims/commit", self._commit_claim),
            web.post("/api/sagas/claims/abort", self._abort_claim),
        ]

    async def _token(self, _request: web.Request) -> web.Response:
        return _json(TokenAnswer(access_token=self.signer.token(Role.SERVICE)))

    async def _jwks(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.signer.jwks(), content_type="application/json")

    async def _link(self, request: web.Request) -> web.Response:
        order = msgspec.json.decode(await self._body(request), type=LinkOrder)
        claims = {"expires_at_ms": order.expires_at_ms, "disposition": order.disposition}
        link = self.signer.link(order.account, order.file_id, **claims)
        made = SignedLink(link=link, expires_at_ms=order.expires_at_ms)
        if order.key is not None:
            first = self.links_by_key.setdefault(order.key, made)
            made = msgspec.structs.replace(first, replayed=first is not made)
        return web.Response(body=msgspec.json.encode(made), status=201, content_type="application/json")

    async def _list(self, _request: web.Request) -> web.Response:
        self.listed += 1
        return _json({"items": self.elements, "next_cursor": None, "version": self.listed, "published_at": ""})

    async def _report(self, request: web.Request) -> web.Response:
        if self.unavailable_reports:
            self.unavailable_reports -= 1
            raise Unavailable("starting")
        reported = msgspec.json.decode(await request.read(), type=ElementReport)
        if self.refuse_report is not None and (refusal := self.refuse_report(reported)) is not None:
            raise refusal
        if reported.root_id == "":
            return _json({"verdict": MAKE_ROOT})
        self.reports.append(reported)
        return _json({} if self.mode is None else {"mode": self.mode})

    async def _begin(self, request: web.Request) -> web.Response:
        sagas = msgspec.json.decode(await self._body(request), type=BeginUploads).sagas
        self.begun.extend(sagas)
        return _results([SagaResult(saga_id=saga.saga_id, state="begun") for saga in sagas])

    async def _commit(self, request: web.Request) -> web.Response:
        sagas = msgspec.json.decode(await self._body(request), type=CommitUploads).sagas
        if self.refuse_commit is not None:
            problem = orjson.loads(self.refuse_commit.to_wire())
            return _results([SagaResult(saga_id=saga.saga_id, state="aborted", problem=problem) for saga in sagas])
        results = []
        for saga in sagas:
            attributes = orjson.loads(bytes(saga.attributes))
            record = orjson.dumps(attributes, option=orjson.OPT_SORT_KEYS)
            if saga.keyed and not await self._keep(saga.saga_id, uploaded(attributes["file_id"], record)):
                problem = orjson.loads(Conflict("the key belongs to a different saga").to_wire())
                results.append(SagaResult(saga_id=saga.saga_id, state="begun", problem=problem))
                continue
            self.committed.append(saga)
            results.append(SagaResult(saga_id=saga.saga_id, state="committed"))
        return _results(results)

    async def _commit_batch(self, request: web.Request) -> web.Response:
        batch = msgspec.json.decode(await self._body(request), type=CommitBatch)
        if self.refuse_commit is not None:
            raise self.refuse_commit
        faults = {saga.saga_id: "no" for saga in batch.sagas if b'"refused"' in bytes(saga.attributes)}
        if faults:
            raise InvalidFields("the catalog refuses the attributes", fields=["metadata"], faults=faults)
        key = batch.key
        if key is not None and not await self._keep(key.saga_id, batch_uploaded(bytes(key.answer))):
            raise Conflict("the key belongs to a different saga")
        self.committed.extend(batch.sagas)
        self.batches.append(batch)
        return _json({"committed": len(batch.sagas)})

    async def _abort(self, request: web.Request) -> web.Response:
        sagas = msgspec.json.decode(await self._body(request), type=AbortUploads).sagas
        self.aborted.extend(sagas)
        return _results([SagaResult(saga_id=saga.saga_id, state="aborting") for saga in sagas])

    async def _claim(self, request: web.Request) -> web.Response:
        saga = msgspec.json.decode(await self._body(request), type=UploadSaga)
        if self.claimed.setdefault(saga.file_id, saga.saga_id) != saga.saga_id:
            raise RevisionMismatch("a file with this id exists already")
        self.begun.append(saga)
        return _json(Claimed(lease_s=30))

    async def _commit_claim(self, request: web.Request) -> web.Response:
        commit = msgspec.json.decode(await self._body(request), type=UploadCommit)
        if self.refuse_commit is not None:
            raise self.refuse_commit
        attributes = orjson.loads(bytes(commit.attributes))
        record = orjson.dumps(attributes, option=orjson.OPT_SORT_KEYS)
        if commit.keyed and not await self._keep(commit.saga_id, uploaded(attributes["file_id"], record)):
            raise Conflict("the key belongs to a different saga")
        self.committed.append(commit)
        return web.Response(status=204)

    async def _abort_claim(self, request: web.Request) -> web.Response:
        saga = msgspec.json.decode(await self._body(request), type=AbortClaim).saga
        self.aborted.append(saga)
        if self.claimed.get(saga.file_id) == saga.saga_id:
            del self.claimed[saga.file_id]
        return web.Response(status=204)

    async def _queue(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        change = msgspec.json.decode(body, type=QueueChange)
        saga = {"saga_id": change.saga_id, "state": "queued"}
        if change.keyed and not await self._keep(change.saga_id, accepted(change.saga_id, orjson.dumps(saga))):
            raise Conflict("the key belongs to a different saga")
        self.queued.append(orjson.loads(body))
        return _json(saga, 202)

    async def _keep(self, saga_id: str, answer: Answer) -> bool:
        return self.keep is None or await self.keep(saga_id, answer)

    async def _body(self, request: web.Request) -> bytes:
        self.requests += 1
        if waiting := self.fail.get(request.path):
            raise waiting.pop(0)
        return await request.read()


class FakeElement(Fake):
    """Keeps files in memory, as (content, record)."""

    def __init__(self, name: str, mode: Mode = Mode.RW, priority: int = 10) -> None:
        super().__init__()
        self.name, self.mode, self.priority = name, mode, priority
        self.reset()

    def reset(self) -> None:
        self.files: dict[str, tuple[bytes, dict[str, Any]]] = {}
        self.quarantined: set[str] = set()
        self.unconfirmed: dict[str, str] = {}
        """Saga ids of files of which the element does not know that they are committed."""
        self.refuse: ArtStoreError | None = None
        """Answered before the body is read."""
        self.refuse_named: dict[str, ArtStoreError] = {}
        """Errors about single files, by their name."""
        self.hold: asyncio.Event | None = None
        """Delays groups until it is set."""
        self.groups: list[list[GroupedPut]] = []
        self.fail_after: int | None = None
        """Bytes of a body after which `fail_with` is answered."""
        self.fail_with: ArtStoreError | None = None
        self.lie: dict[str, Any] = {}
        """Fields that differ in the record of a stored file."""
        self.slow: set[str] = set()
        """Ids of files that it does not read together with others."""
        self.hangs = False
        """A request for small files is never answered."""
        self.reads_together = True
        self.read_together: list[list[str]] = []
        """The ids of each request for small files."""
        self.read_alone: list[str] = []
        """The id of each request for one content."""
        self.stalled = False
        self.answers_after_s = 0.0
        self.breaks_after: int | None = None
        """Bytes of a content after which the connection is closed."""
        self.stalls_after: int | None = None
        self.asked = 0
        self.cut_off = 0
        self.connection_lost = asyncio.Event()
        """A reader closed the connection during a content."""
        self.headers: dict[str, str] = {}
        """The headers of the last request, names in lower case."""

    def put(self, content: bytes, **changes: Any) -> Attributes:
        return self.store(new_file(content, self.name, **changes), content)

    def store(self, attributes: Attributes, content: bytes) -> Attributes:
        self.files[attributes.file_id] = (content, orjson.loads(encode(attributes)))
        return attributes

    def entry(self, **fields: Any) -> Element:
        """Its entry in the registry."""
        now = rfc3339(Clock().now())
        known: dict[str, Any] = {
            "id": self.name,
            "url": self.url,
            "mode": self.mode,
            "backend": "local",
            "version": "0",
            "capacity": Capacity(total_bytes=2**50, used_bytes=0, available_bytes=2**49, files=0, fill=Fill.OK),
            "priority": self.priority,
            "status": "online",
            "last_seen_at": now,
            "registered_at": now,
        }
        return Element(**{**known, **fields})

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.post(PUT_GROUP_PATH, self._put_group, expect_handler=_expect_nothing_yet),
            web.put("/api/files/{file_id}", self._put, expect_handler=_expect_nothing_yet),
            web.get("/api/files/contents", self._small_files),
            web.get("/api/files/{file_id}", self._get),
            web.patch("/api/files/{file_id}", self._patch),
            web.delete("/api/files/{file_id}", self._delete),
            web.get("/api/files/{file_id}/content", self._content, allow_head=False),
            web.put("/api/files/{file_id}/content", self._replace, expect_handler=_expect_nothing_yet),
        ]

    async def _put(self, request: web.Request) -> web.Response:
        await self._admit(request)
        body = await self._body(request)
        assert request.headers[SAGA_HEADER]
        new = decode_new_file(request.headers[NEW_FILE_HEADER])
        return _json(self._keep(request.match_info["file_id"], new, body), 201)

    async def _put_group(self, request: web.Request) -> web.Response:
        await self._admit(request)
        puts = list(decode_puts(await self._body(request)))
        self.groups.append(puts)
        if self.hold is not None:
            await self.hold.wait()
        return web.Response(body=encode_group([self._put_one(put) for put in puts]))

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
        now = "2026-01-01T00:00:00.000000Z"
        record = {
            "schema_version": 1,
            "file_id": file_id,
            "revision": 1,
            "size_bytes": len(body),
            "checksum": checksum(body),
            "storage_element_id": self.name,
            "created_at": now,
            "updated_at": now,
            **msgspec.to_builtins(new),
            **self.lie,
        }
        self.files[file_id] = (body, record)
        return record

    async def _get(self, request: web.Request) -> web.Response:
        _, record = await self._load(request)
        saga_id = self.unconfirmed.get(record["file_id"])
        return _json(record, headers={SAGA_HEADER: saga_id} if saga_id else {})

    async def _small_files(self, request: web.Request) -> web.Response:
        """Raises Malformed like an element of an earlier version, for which the path is one file's."""
        if not self.reads_together:
            raise Malformed()
        if self.hangs:
            await asyncio.Event().wait()
        file_ids = request.headers[FILES_HEADER].split(",")
        self.read_together.append(file_ids)
        return web.Response(body=encode_reads([self._read(file_id) for file_id in file_ids]))

    def _read(self, file_id: str) -> FileRead | ReadRefused | None:
        try:
            content, record = self._find(file_id)
        except (NotFound, Quarantined) as error:
            return ReadRefused(error.status, error.to_wire())
        if file_id in self.slow:
            return None
        small = content if len(content) <= SMALL_FILE_BYTES else None
        return FileRead(msgspec.json.encode(record), small, file_id in self.unconfirmed)

    async def _patch(self, request: web.Request) -> web.Response:
        body, record = await self._load(request)
        return self._changed(record, body, orjson.loads(await request.read()))

    async def _replace(self, request: web.Request) -> web.Response:
        _, record = await self._load(request)
        body = await self._body(request)
        return self._changed(record, body, {"size_bytes": len(body), "checksum": checksum(body)})

    async def _delete(self, request: web.Request) -> web.Response:
        del self.files[(await self._load(request))[1]["file_id"]]
        return web.Response(status=204)

    async def _content(self, request: web.Request) -> web.StreamResponse:
        content, record = self._find(request.match_info["file_id"])
        self.read_alone.append(record["file_id"])
        etag = f'"{record["checksum"]}"'
        if request.headers.get("if-match", etag) != etag:
            raise RevisionMismatch()
        answer = web.StreamResponse(headers={"etag": etag})
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", "")):
            first, last = int(asked[1]), int(asked[2])
            answer.set_status(206)
            answer.headers["content-range"] = f"bytes {first}-{last}/{len(content)}"
            content = content[first : last + 1]
        answer.content_length = len(content)
        await answer.prepare(request)
        stop = min(n for n in (self.breaks_after, self.stalls_after, len(content)) if n is not None)
        try:
            for start in range(0, stop, CHUNK_BYTES):
                await answer.write(content[start : min(start + CHUNK_BYTES, stop)])
            if self.stalls_after is not None:
                await asyncio.Event().wait()
        except (asyncio.CancelledError, ConnectionError):
            self.connection_lost.set()
            raise
        if self.breaks_after is not None and request.transport is not None:
            request.transport.close()
        return answer

    async def _admit(self, request: web.Request) -> None:
        self.asked += 1
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        await asyncio.sleep(STALL_S if self.stalled else self.answers_after_s)
        if self.refuse is not None:
            raise self.refuse

    def _find(self, file_id: str) -> tuple[bytes, dict[str, Any]]:
        if file_id not in self.files:
            raise Quarantined() if file_id in self.quarantined else NotFound()
        return self.files[file_id]

    async def _load(self, request: web.Request) -> tuple[bytes, dict[str, Any]]:
        await self._admit(request)
        content, record = self._find(request.match_info["file_id"])
        tags = if_match(request.headers.getall("if-match", []))
        if tags is not None and record["revision"] not in revisions_in(tags):
            raise RevisionMismatch("a different revision", revision=record["revision"])
        return content, record

    async def _body(self, request: web.Request) -> bytes:
        """The whole body, or the failure that the test wants."""
        if request.headers.get("expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        body = b""
        try:
            async for chunk in request.content.iter_any():
                body += chunk
                if self.fail_after is not None and len(body) > self.fail_after:
                    assert self.fail_with is not None
                    raise self.fail_with
        except (asyncio.CancelledError, ConnectionError):
            self.cut_off += 1
            raise
        stated = request.headers.get("repr-digest", "")
        if stated and stated != f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:":
            raise DigestMismatch()
        return body

    def _changed(self, record: dict[str, Any], body: bytes, changes: dict[str, Any]) -> web.Response:
        changed = {**record, **changes, "revision": record["revision"] + 1}
        self.files[record["file_id"]] = (body, changed)
        return _json(changed, headers={"etag": f'"{changed["revision"]}"'})


def new_file(content: bytes, element_id: str = "se-01", revision: int = 1, **changes: Any) -> Attributes:
    now = rfc3339(Clock().now())
    fields: dict[str, Any] = {
        "file_id": str(uuid7()),
        "revision": revision,
        "filename": "Договор №5.pdf",
        "content_type": "application/pdf",
        "size_bytes": len(content),
        "checksum": checksum(content),
        "storage_element_id": element_id,
        "created_at": now,
        "updated_at": now,
        "owner": "tester",
        "tags": [],
        "metadata": {},
        "retention": "permanent",
        "expires_at": None,
    }
    return Attributes(**{**fields, **changes})


def snapshot_of(*elements: FakeElement, version: int = 1) -> Snapshot:
    now = rfc3339(Clock().now())
    return Snapshot(version=version, published_at=now, elements=[element.entry() for element in elements])


def checksum(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@web.middleware
async def _answer_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except ArtStoreError as error:
        return web.Response(body=error.to_wire(), status=error.status, content_type="application/problem+json")


async def _expect_nothing_yet(_request: web.Request) -> None:
    """100 Continue is sent by the handler, once it reads the body."""


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    content = msgspec.json.encode(body)
    return web.Response(body=content, status=status, content_type="application/json", headers=headers)


def _results(results: list[SagaResult]) -> web.Response:
    return _json(SagaResults(results=results))

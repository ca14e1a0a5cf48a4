"""/api/sagas: begin, commit and abort for the ingester, as plain routes since each upload passes twice; lists for operators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
import orjson
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from artstore.auth.guard import new_router
from artstore.contracts.files import MAX_ATTRIBUTES_BYTES, decode
from artstore.contracts.sagas import (
    MAX_GROUP,
    AbortUploads,
    BeginUploads,
    SagaKind,
    SagaResult,
    SagaResults,
    UploadSaga,
)
from artstore.contracts.tokens import Audience
from artstore.errors import InvalidFields
from artstore.http.body import limited_receive
from artstore.http.json import JsonResponse, page, read_json
from artstore.logs import request_id
from artstore.service import DataRoute

from ..core.context import Context
from ..elements.registry import ELEMENT_ID
from ..sagas.look import Asked, list_sagas, load_saga
from ..sagas.saga import SagaState
from ..sagas.upload import Abort, Commit
from .paging import DEFAULT_LIMIT, Cursor, Limit, cut, known_only, parse_cursor

MAX_BODY_BYTES = 2 * MAX_GROUP * MAX_ATTRIBUTES_BYTES
MAX_OWNER_CHARS = 256
MAX_REASON_CHARS = 200

ElementId = Annotated[str, Query(pattern=f"^{ELEMENT_ID.pattern}$")]

T = TypeVar("T")
G = TypeVar("G", UploadSaga, "_Commit")


class _Commit(msgspec.Struct, frozen=True):
    """UploadCommit with the attributes left as they came, for the one decoder that knows attr.json."""

    saga_id: str
    attributes: msgspec.Raw
    keyed: bool = False


class _Commits(msgspec.Struct, frozen=True):
    sagas: list[_Commit]


async def begin(request: Request) -> Response:
    given = (await _read(request, BeginUploads)).sagas
    return await _each(given, _checked, _context(request).uploads.begin)


async def commit(request: Request) -> Response:
    given = (await _read(request, _Commits)).sagas
    context = _context(request)
    answer = await _each(given, _to_commit, context.uploads.commit)
    context.outbox.kick()
    return answer


async def abort(request: Request) -> Response:
    given = await _read(request, AbortUploads)
    reason = given.reason.replace("\x00", "")[:MAX_REASON_CHARS]
    uploads = _context(request).uploads
    return await _each(given.sagas, _checked, lambda sagas: uploads.abort(Abort(sagas, reason)))


def router() -> APIRouter:
    routes = new_router(Audience.ADMIN)
    tags: list[Any] = ["sagas"]
    asked = known_only("state", "kind", "element", "hanging")
    routes.get("/api/sagas", tags=tags, summary="Sagas, newest first; what hangs, and why", dependencies=[asked])(
        list_all
    )
    routes.get("/api/sagas/{saga_id}", tags=tags, summary="One saga")(show)
    return routes


async def list_all(
    request: Request,
    state: SagaState | None = None,
    kind: SagaKind | None = None,
    element: ElementId | None = None,
    hanging: bool = False,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    before = parse_cursor(cursor, UUID)
    asked = Asked(state, kind, element, hanging)
    async with _context(request).database.begin() as conn:
        rows = await list_sagas(conn, asked, before, limit + 1)
    shown, following = cut(rows, limit, lambda row: row["saga_id"])
    return page(shown, following)


async def show(request: Request, saga_id: UUID) -> Response:
    async with _context(request).database.begin() as conn:
        return JsonResponse(await load_saga(conn, saga_id))


async def _read(request: Request, shape: type[T]) -> T:
    return await read_json(Request(request.scope, limited_receive(request, MAX_BODY_BYTES)), shape)


async def _each(
    given: Sequence[G], check: Callable[[G], T], advance: Callable[[list[T]], Awaitable[list[SagaResult]]]
) -> Response:
    """One result per saga in the order given. One that is wrong is refused alone: the others are other people's uploads."""
    if not 1 <= len(given) <= MAX_GROUP:
        raise InvalidFields(f"1 to {MAX_GROUP} sagas go in one request", fields=["sagas"])
    good: list[T] = []
    refused: dict[int, SagaResult] = {}
    for number, one in enumerate(given):
        try:
            good.append(check(one))
        except ValueError as error:
            problem = orjson.loads(InvalidFields(str(error)).to_wire(request_id.get()))
            refused[number] = SagaResult(saga_id=one.saga_id, state="unknown", problem=problem)
    advanced = iter(await advance(good) if good else [])
    results = [refused[number] if number in refused else next(advanced) for number in range(len(given))]
    return JsonResponse(msgspec.json.encode(SagaResults(results=results)))


def _to_commit(given: _Commit) -> Commit:
    _check_id(given.saga_id)
    return Commit(given.saga_id, decode(bytes(given.attributes)), given.keyed)


def _checked(saga: UploadSaga) -> UploadSaga:
    _check_id(saga.saga_id)
    _check_id(saga.file_id)
    if not ELEMENT_ID.fullmatch(saga.storage_element_id):
        raise ValueError("storage_element_id must be an element id")
    if len(saga.owner) > MAX_OWNER_CHARS or "\x00" in saga.owner:
        raise ValueError("owner must be a client_id")
    return saga


def _check_id(given: str) -> None:
    if str(UUID(given)) != given:
        raise ValueError("ids must be UUIDs in lower case")


def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


def _operation(name: str, summary: str, sagas: dict[str, Any], *more: str) -> dict[str, Any]:
    text: dict[str, Any] = {"type": "string"}
    shape = {
        "type": "object",
        "required": ["sagas", *more],
        "properties": {
            "sagas": {"type": "array", "minItems": 1, "maxItems": MAX_GROUP, "items": sagas},
            **dict.fromkeys(more, text),
        },
    }
    result = {
        "type": "object",
        "required": ["saga_id", "state"],
        "properties": {"saga_id": text, "state": text, "problem": {"type": ["object", "null"]}},
    }
    results = {"type": "object", "properties": {"results": {"type": "array", "items": result}}}
    return {
        "post": {
            "tags": ["sagas"],
            "summary": summary,
            "operationId": name,
            "requestBody": {"required": True, "content": {"application/json": {"schema": shape}}},
            "responses": {
                "200": {
                    "description": "One result for each saga; those refused carry a problem",
                    "content": {"application/json": {"schema": results}},
                }
            },
        }
    }


_ID = {"type": "string", "format": "uuid"}
_SAGA: dict[str, Any] = {
    "type": "object",
    "required": ["saga_id", "file_id", "storage_element_id", "owner"],
    "properties": {
        "saga_id": _ID,
        "file_id": _ID,
        "storage_element_id": {"type": "string", "pattern": f"^{ELEMENT_ID.pattern}$"},
        "owner": {"type": "string", "maxLength": MAX_OWNER_CHARS},
    },
}
_COMMIT: dict[str, Any] = {
    "type": "object",
    "required": ["saga_id", "attributes"],
    "properties": {"saga_id": _ID, "attributes": {"type": "object"}, "keyed": {"type": "boolean", "default": False}},
}

ROUTES = [
    DataRoute(
        "/api/sagas/uploads",
        ["POST"],
        begin,
        _operation("begin_uploads", "Begin uploads, or renew their leases", _SAGA),
    ),
    DataRoute("/api/sagas/commit", ["POST"], commit, _operation("commit_uploads", "Commit uploads", _COMMIT)),
    DataRoute("/api/sagas/abort", ["POST"], abort, _operation("abort_uploads", "Undo uploads", _SAGA, "reason")),
]

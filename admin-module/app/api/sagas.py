"""/api/sagas: begin, commit and abort for the ingester, as data routes since each upload calls twice; lists
for operators."""

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
from artstore.contracts.files import MAX_ATTRIBUTES_BYTES, decode, is_id
from artstore.contracts.sagas import (
    MAX_BATCH_FILES,
    MAX_GROUP,
    AbortUploads,
    BeginUploads,
    CommitBatch,
    CommitUploads,
    QueueChange,
    SagaKind,
    SagaResult,
    SagaResults,
    UploadCommit,
    UploadSaga,
)
from artstore.contracts.schemas import SAGA
from artstore.contracts.tokens import Audience
from artstore.errors import InvalidFields
from artstore.http.data_routes import DataRoute
from artstore.http.json import JsonResponse, read_json
from artstore.http.lists import DEFAULT_LIMIT
from artstore.http.openapi import TEXT_SCHEMA, UUID_SCHEMA, answer, described, object_schema, operation
from artstore.logs import request_id

from ..core.context import context_of
from ..elements.registry import ELEMENT_ID
from ..sagas.query import SagaFilter, list_sagas, load_saga
from ..sagas.saga import SagaState
from ..sagas.upload import Abort, Commit
from .documents import SAGAS
from .parameters import Cursor, Limit, allow_only, answer_page, parse_cursor, uuid_cursor

MAX_BODY_BYTES = 2 * MAX_GROUP * MAX_ATTRIBUTES_BYTES
MAX_BATCH_BYTES = 3 * MAX_BATCH_FILES * MAX_ATTRIBUTES_BYTES
"""The records of the files, and the answer of a key, which holds them too."""
MAX_OWNER_CHARS = 256
MAX_REASON_CHARS = 200

ElementId = Annotated[str, Query(pattern=f"^{ELEMENT_ID.pattern}$")]

T = TypeVar("T")
G = TypeVar("G", UploadSaga, UploadCommit)


async def begin(request: Request) -> Response:
    given = (await _read(request, BeginUploads)).sagas
    return await _each(given, _checked, context_of(request).uploads.begin)


async def commit(request: Request) -> Response:
    given = (await _read(request, CommitUploads)).sagas
    return await _each(given, _to_commit, context_of(request).uploads.commit)


async def commit_batch(request: Request) -> Response:
    given = await read_json(request, CommitBatch, MAX_BATCH_BYTES)
    if not 1 <= len(given.sagas) <= MAX_BATCH_FILES:
        raise InvalidFields(f"a batch must hold 1 to {MAX_BATCH_FILES} sagas", fields=["sagas"])
    if len({saga.saga_id for saga in given.sagas}) < len(given.sagas):
        raise InvalidFields("a batch must hold each saga once", fields=["sagas"])
    if given.key is not None:
        check_id("saga_id", given.key.saga_id)
    try:
        commits = [_to_commit(saga) for saga in given.sagas]
    except ValueError as error:
        raise InvalidFields(str(error), fields=["sagas"]) from error
    await context_of(request).uploads.commit_batch(commits, given.key)
    return JsonResponse({"committed": len(commits)})


async def abort(request: Request) -> Response:
    given = await _read(request, AbortUploads)
    reason = given.reason.replace("\x00", "")[:MAX_REASON_CHARS]
    uploads = context_of(request).uploads
    return await _each(given.sagas, _checked, lambda sagas: uploads.abort(Abort(sagas, reason)))


def router() -> APIRouter:
    routes = new_router(Audience.ADMIN)
    tags: list[Any] = ["sagas"]
    asked = allow_only("state", "kind", "element", "hanging")
    routes.get(
        "/api/sagas",
        tags=tags,
        summary="Sagas, newest first, with the reason why they hang",
        dependencies=[asked],
        **described("list_sagas", SAGAS),
    )(list_all)
    routes.get("/api/sagas/{saga_id}", tags=tags, summary="One saga", **described("get_saga", SAGA))(show)
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
    before = parse_cursor(cursor, uuid_cursor)
    asked = SagaFilter(state, kind, element, hanging)
    async with context_of(request).database.begin() as conn:
        rows = await list_sagas(conn, asked, before, limit + 1)
    return answer_page(rows, limit, lambda row: row["saga_id"])


async def show(request: Request, saga_id: UUID) -> Response:
    async with context_of(request).database.begin() as conn:
        return JsonResponse(await load_saga(conn, saga_id))


async def _read(request: Request, shape: type[T]) -> T:
    return await read_json(request, shape, MAX_BODY_BYTES)


async def _each(
    given: Sequence[G], check: Callable[[G], T], advance: Callable[[list[T]], Awaitable[list[SagaResult]]]
) -> Response:
    """One result per saga in the order given. An invalid saga is refused alone, because the others belong to
    other uploads."""
    if not 1 <= len(given) <= MAX_GROUP:
        raise InvalidFields(f"a request must hold 1 to {MAX_GROUP} sagas", fields=["sagas"])
    good: list[T] = []
    refused: dict[int, SagaResult] = {}
    for number, one in enumerate(given):
        try:
            good.append(check(one))
        except (InvalidFields, ValueError) as error:
            problem = orjson.loads(InvalidFields(str(error)).to_wire(request_id.get()))
            refused[number] = SagaResult(saga_id=one.saga_id, state="unknown", problem=problem)
    advanced = iter(await advance(good) if good else [])
    results = [refused[number] if number in refused else next(advanced) for number in range(len(given))]
    return JsonResponse(msgspec.json.encode(SagaResults(results=results)))


def _to_commit(given: UploadCommit) -> Commit:
    check_id("saga_id", given.saga_id)
    return Commit(given.saga_id, decode(bytes(given.attributes)), given.keyed)


def _checked(saga: UploadSaga) -> UploadSaga:
    check_subject(saga)
    if not ELEMENT_ID.fullmatch(saga.storage_element_id):
        raise ValueError("storage_element_id must be an element id: 1 to 63 of a-z, 0-9 and -")
    return saga


def check_subject(saga: UploadSaga | QueueChange) -> None:
    """Raises InvalidFields when an id or the owner of the saga is not valid."""
    check_id("saga_id", saga.saga_id)
    check_id("file_id", saga.file_id)
    if len(saga.owner) > MAX_OWNER_CHARS or "\x00" in saga.owner:
        raise InvalidFields("owner must be a client_id", fields=["owner"])
    if isinstance(saga, QueueChange) and (len(saga.account) > MAX_OWNER_CHARS or "\x00" in saga.account):
        raise InvalidFields("account must be an account's id", fields=["account"])


def check_id(name: str, given: str) -> None:
    """Raises InvalidFields when `given` is not a UUID in canonical form."""
    if not is_id(given):
        raise InvalidFields(f"{name} must be a UUID in lower case", fields=[name])


SAGA_SCHEMA = object_schema(
    {
        "saga_id": UUID_SCHEMA,
        "file_id": UUID_SCHEMA,
        "storage_element_id": {"type": "string", "pattern": f"^{ELEMENT_ID.pattern}$"},
        "owner": {"type": "string", "maxLength": MAX_OWNER_CHARS},
    }
)
COMMIT_SCHEMA = object_schema(
    {"saga_id": UUID_SCHEMA, "attributes": {"type": "object"}}, {"keyed": {"type": "boolean", "default": False}}
)
_KEY = object_schema({"saga_id": UUID_SCHEMA, "answer": {"type": "object"}})
_BATCH = operation(
    "Commit all uploads of a batch, or none",
    operation_id="commit_batch",
    tag="sagas",
    body={
        "application/json": object_schema(
            {"sagas": {"type": "array", "minItems": 1, "maxItems": MAX_BATCH_FILES, "items": COMMIT_SCHEMA}},
            {"key": {"anyOf": [_KEY, {"type": "null"}]}},
        )
    },
    responses={"200": answer("All are committed", object_schema({"committed": {"type": "integer"}}))},
)
_RESULT = object_schema({"saga_id": TEXT_SCHEMA, "state": TEXT_SCHEMA}, {"problem": {"type": ["object", "null"]}})
_RESULTS = object_schema({"results": {"type": "array", "items": _RESULT}})


def _operation(operation_id: str, summary: str, item: dict[str, Any], **more: Any) -> dict[str, Any]:
    sagas = {"type": "array", "minItems": 1, "maxItems": MAX_GROUP, "items": item}
    return {
        "post": operation(
            summary,
            operation_id=operation_id,
            tag="sagas",
            body={"application/json": object_schema({"sagas": sagas, **more})},
            responses={"200": answer("One result for each saga; those refused carry a problem", _RESULTS)},
        )
    }


_BEGIN = _operation("begin_uploads", "Begin uploads, or renew their leases", SAGA_SCHEMA)
_ABORT = _operation("abort_uploads", "Undo uploads", SAGA_SCHEMA, reason=TEXT_SCHEMA)
ROUTES = [
    DataRoute("/api/sagas/uploads", ["POST"], begin, _BEGIN),
    DataRoute("/api/sagas/commit", ["POST"], commit, _operation("commit_uploads", "Commit uploads", COMMIT_SCHEMA)),
    DataRoute("/api/sagas/commit-batch", ["POST"], commit_batch, {"post": _BATCH}),
    DataRoute("/api/sagas/abort", ["POST"], abort, _ABORT),
]

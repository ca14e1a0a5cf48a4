"""PATCH and DELETE /api/files/{file_id}, PUT /api/files/{file_id}/content, and GET of both, which redirects to query."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from artstore.auth.access import principal_of
from artstore.contracts.files import Changes, check_changes
from artstore.contracts.schemas import FILENAME, METADATA, TAGS
from artstore.errors import InvalidFields, Malformed, NotFound, UnsupportedMediaType
from artstore.http.data_routes import DataRoute, file_id_of
from artstore.http.json import check_keys, without_bom
from artstore.http.openapi import BYTES_SCHEMA, answer, operation
from artstore.http.request_headers import CHANGED_BY_REVISION, CONDITIONS, DIGESTS, RANGES

from ..changes.change import Delete
from ..changes.conditional import Precondition
from ..changes.update import Patch, Replace
from ..core.context import Context, context_of
from ..idempotency.keys import key_of
from ..idempotency.replay import run_or_replay
from ..uploads.body import FORM, content_type_of, media_type, open_raw
from ..uploads.reader import BodyReader
from .schemas import DIGEST_HEADERS, IDEMPOTENCY_KEY, IF_MATCH, QUEUED_ANSWER, RECORD_ANSWER, keyed

MAX_PATCH_BYTES = 64 * 1024
PATCH_TYPES = frozenset({"application/json", "application/merge-patch+json"})


async def patch_file(request: Request) -> Response:
    context = context_of(request)
    key = key_of(request)
    with context.files.operation("update"):
        changes = await _read_changes(request, context)
        patch = Patch(context, file_id_of(request), _owner(request), _condition(request), changes)
        return await run_or_replay(context.keys, key, patch)


async def replace_content(request: Request) -> Response:
    context = context_of(request)
    key = key_of(request)
    with context.files.operation("update"):
        if media_type(request) == FORM:
            raise UnsupportedMediaType("new content must be sent as the raw body, not as a form")
        body = open_raw(request, context.limits, context.clock)
        file_id, condition = file_id_of(request), _condition(request, of_content=True)
        replace = Replace(context, file_id, _owner(request), condition, body, content_type_of(request))
        return await run_or_replay(context.keys, key, replace)


async def delete_file(request: Request) -> Response:
    context = context_of(request)
    key = key_of(request)
    with context.files.operation("delete"):
        delete = Delete(context, file_id_of(request), _owner(request), _condition(request))
        return await run_or_replay(context.keys, key, delete)


async def redirect_to_query(request: Request) -> Response:
    """307, so that the `Location` of a 201 works at the ingester too: the client repeats the request at QUERY_URL."""
    context = context_of(request)
    file_id = file_id_of(request)
    if context.query_url is None:
        raise NotFound("files are read at query; set QUERY_URL to redirect readers there")
    path = f"/api/files/{file_id}" + ("/content" if request.url.path.endswith("/content") else "")
    parameters = request.scope["query_string"].decode("ascii", "replace")
    location = context.query_url.rstrip("/") + path + (f"?{parameters}" if parameters else "")
    return Response(status_code=307, headers={"location": location, "cache-control": "no-store"})


async def _read_changes(request: Request, context: Context) -> Changes:
    if media_type(request) not in PATCH_TYPES:
        raise UnsupportedMediaType("changes must be sent as application/json")
    reader = BodyReader(request, context.limits, max_bytes=MAX_PATCH_BYTES, clock=context.clock)
    pieces = []
    while piece := await reader.next_chunk():
        pieces.append(piece)
    body = without_bom(b"".join(pieces))
    check_keys(body)
    try:
        changes = msgspec.json.decode(body, type=Changes)
    except msgspec.ValidationError as error:
        raise InvalidFields(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed("the body is not JSON") from error
    check_changes(changes)
    return changes


def _owner(request: Request) -> str:
    return principal_of(request).client_id


def _condition(request: Request, *, of_content: bool = False) -> Precondition:
    return Precondition.parse(request.headers.getlist("if-match"), of_content=of_content)


_CHANGES_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"filename": FILENAME, "tags": TAGS, "metadata": METADATA},
}
_REDIRECT_ANSWERS = {"307": answer("The same path at query", headers={"Location": "The address at query"})}

FILE_ROUTES = [
    DataRoute(
        path="/api/files/{file_id}",
        methods=["PATCH"],
        handler=patch_file,
        honours=CHANGED_BY_REVISION,
        openapi={
            "patch": operation(
                "Change attributes; absent ones stay",
                operation_id="patch_file",
                parameters=[IF_MATCH, IDEMPOTENCY_KEY],
                body={"application/json": _CHANGES_SCHEMA},
                responses=keyed({"200": RECORD_ANSWER, "202": QUEUED_ANSWER}),
            )
        },
    ),
    DataRoute(
        path="/api/files/{file_id}",
        methods=["DELETE"],
        handler=delete_file,
        honours=CHANGED_BY_REVISION,
        openapi={
            "delete": operation(
                "Delete a file on an element that allows it",
                operation_id="delete_file",
                parameters=[IF_MATCH, IDEMPOTENCY_KEY],
                responses=keyed({"202": QUEUED_ANSWER, "204": answer("The file is deleted")}),
            )
        },
    ),
    DataRoute(
        path="/api/files/{file_id}/content",
        methods=["PUT"],
        handler=replace_content,
        honours=CHANGED_BY_REVISION | DIGESTS,
        transfer=True,
        openapi={
            "put": operation(
                "Replace a file's bytes; its attributes stay",
                operation_id="replace_content",
                parameters=[IF_MATCH, *DIGEST_HEADERS, IDEMPOTENCY_KEY],
                body={"application/octet-stream": BYTES_SCHEMA},
                responses=keyed({"200": RECORD_ANSWER}),
            )
        },
    ),
    DataRoute(
        path="/api/files/{file_id}",
        methods=["GET"],
        handler=redirect_to_query,
        honours=CONDITIONS | RANGES,
        openapi={
            "get": operation(
                "Redirect to the attributes at query", operation_id="redirect_to_file", responses=_REDIRECT_ANSWERS
            )
        },
    ),
    DataRoute(
        path="/api/files/{file_id}/content",
        methods=["GET"],
        handler=redirect_to_query,
        honours=CONDITIONS | RANGES,
        openapi={
            "get": operation(
                "Redirect to the bytes at query", operation_id="redirect_to_content", responses=_REDIRECT_ANSWERS
            )
        },
    ),
]

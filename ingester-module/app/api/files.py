"""PATCH and DELETE /api/files/{file_id}, PUT /api/files/{file_id}/content."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from artstore.audit.event import Event
from artstore.auth.access import principal_of
from artstore.clock import uuid7
from artstore.contracts.files import Changes, canonical_id, check_changes
from artstore.contracts.schemas import FILENAME, METADATA, TAGS
from artstore.errors import InvalidFields, Malformed, NotFound, RevisionMismatch, UnsupportedMediaType
from artstore.if_match import if_match, revisions_in
from artstore.jsons import JsonResponse
from artstore.peers import PeerAnswer
from artstore.service import DataRoute

from ..changes import change
from ..changes.queue import Queued
from ..changes.wish import Wish
from ..core.context import Context
from ..uploads.body import FORM, media_type, open_raw, stated_type
from ..uploads.receive import Received
from .idempotency import without_idempotency_key
from .sagas import accepted
from .schemas import DIGEST_HEADERS, IF_MATCH, QUEUED_ANSWER, RECORD_ANSWER

MAX_PATCH_BYTES = 64 * 1024
PATCH_TYPES = frozenset({"application/json", "application/merge-patch+json"})


async def patch_file(request: Request) -> Response:
    context: Context = request.app.state.context
    with context.files.operation("update"):
        wanted = await _read_changes(request, context)
        answer = await change.patch(context, _wish(request), wanted)
    return accepted(answer) if isinstance(answer, Queued) else _record(answer)


async def replace_content(request: Request) -> Response:
    context: Context = request.app.state.context
    with context.files.operation("update"):
        if media_type(request) == FORM:
            raise UnsupportedMediaType("new content is sent as the raw body, not as a form")
        body = open_raw(request, context.limits, context.clock)
        given = stated_type(request)
        headers = {"content-type": given} if given else {}
        answer = await change.replace(context, _wish(request), body, headers)
    return _record(answer)


async def delete_file(request: Request) -> Response:
    context: Context = request.app.state.context
    with context.files.operation("delete"):
        wish = _wish(request)
        queued = await change.delete(context, wish)
        if queued is not None:
            return accepted(queued)  # admin records the deletion when it is made
        # A crash before this leaves a deletion that nobody was told of; after it the event is safe, whatever is away.
        deleted = Event("file.delete", wish.owner, f"files/{wish.file_id}")
        await request.app.state.runtime.audit.record(deleted)
    return Response(status_code=204)


async def _read_changes(request: Request, context: Context) -> bytes:
    if media_type(request) not in PATCH_TYPES:
        raise UnsupportedMediaType("changes are sent as application/json")
    received = Received(request, context.limits, max_bytes=MAX_PATCH_BYTES, clock=context.clock)
    pieces = []
    while piece := await received.next():
        pieces.append(piece)
    try:
        wanted = msgspec.json.decode(b"".join(pieces), type=Changes)
    except msgspec.ValidationError as error:
        raise InvalidFields(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed("the body is not JSON") from error
    check_changes(wanted)
    return msgspec.json.encode(wanted)


def _file_id(request: Request) -> str:
    """In the canonical form. What is no UUID is the id of no file."""
    file_id = canonical_id(request.path_params["file_id"])
    if file_id is None:
        raise NotFound("no file has such an id")
    return file_id


def _wish(request: Request, saga_id: str | None = None) -> Wish:
    """Raises NotFound, and Malformed for an If-Match that is none. Tags that name no revision match none: 412."""
    tags = if_match(request.headers.getlist("if-match"))
    revisions = None if tags is None else tuple(sorted(revisions_in(tags)))
    if revisions == ():
        raise RevisionMismatch("If-Match names no revision")
    owner = principal_of(request).client_id
    return Wish(saga_id or str(uuid7()), _file_id(request), owner, revisions)


def _record(answer: PeerAnswer) -> Response:
    return JsonResponse(answer.body, 200, {"etag": answer.headers["etag"]} if "etag" in answer.headers else None)


FILE_ROUTES = [
    DataRoute(
        path="/api/files/{file_id}",
        methods=["PATCH"],
        handler=without_idempotency_key(patch_file),
        openapi={
            "patch": {
                "tags": ["files"],
                "summary": "Change attributes; what is absent stays",
                "operationId": "patch_file",
                "parameters": [IF_MATCH],
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "additionalProperties": False,
                                "properties": {"filename": FILENAME, "tags": TAGS, "metadata": METADATA},
                            }
                        }
                    },
                },
                "responses": {"200": RECORD_ANSWER, "202": QUEUED_ANSWER},
            }
        },
    ),
    DataRoute(
        path="/api/files/{file_id}",
        methods=["DELETE"],
        handler=without_idempotency_key(delete_file),
        openapi={
            "delete": {
                "tags": ["files"],
                "summary": "Delete a file on an element that allows it",
                "operationId": "delete_file",
                "parameters": [IF_MATCH],
                "responses": {"202": QUEUED_ANSWER, "204": {"description": "The file is gone"}},
            }
        },
    ),
    DataRoute(
        path="/api/files/{file_id}/content",
        methods=["PUT"],
        handler=without_idempotency_key(replace_content),
        openapi={
            "put": {
                "tags": ["files"],
                "summary": "Replace a file's bytes; its attributes stay",
                "operationId": "replace_content",
                "parameters": [IF_MATCH, *DIGEST_HEADERS],
                "requestBody": {
                    "required": True,
                    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
                },
                "responses": {"200": RECORD_ANSWER},
            }
        },
    ),
]

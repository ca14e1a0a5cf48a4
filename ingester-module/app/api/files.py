"""POST /api/files/upload, PATCH and DELETE /api/files/{file_id}, PUT …/content; GET of a file redirects to
query."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from artstore.auth.access import principal_of
from artstore.contracts.media_type import canonical_type
from artstore.contracts.schemas import MEDIA_TYPE, RECORD
from artstore.errors import InvalidFields, NotFound, UnsupportedMediaType
from artstore.http.data_routes import file_id_of, note_file
from artstore.http.idempotency_key import IDEMPOTENCY_KEY, key_of, keyed
from artstore.http.json import parse_json
from artstore.http.lists import read_parameters
from artstore.http.openapi import BYTES_SCHEMA, DIGEST_HEADERS, IF_MATCH, answer, header, query, route
from artstore.http.request_headers import CONDITIONS, RANGES

from ..changes.asked import AskedChanges
from ..changes.change import Delete
from ..changes.conditional import Precondition
from ..changes.update import MakePermanent, Patch, Replace
from ..core.context import Context, context_of
from ..idempotency.replay import run_or_replay
from ..uploads.body import FORM, media_type, open_raw
from ..uploads.create import CreateOperation
from ..uploads.reader import BodyReader
from ..uploads.upload import UploadOperation
from .documents import (
    CHANGES_SCHEMA,
    CREATE_DESCRIPTION,
    FORM_SCHEMA,
    QUERY_SCHEMAS,
    QUEUED_ANSWER,
    RECORD_ANSWER,
    REDIRECT_ANSWERS,
    UPLOAD_DESCRIPTION,
)

MAX_PATCH_BYTES = 64 * 1024
PATCH_TYPES = frozenset({"application/json", "application/merge-patch+json"})


async def upload_file(request: Request) -> Response:
    context = context_of(request)
    key = key_of(request)
    with context.files.operation("put"):
        upload = await UploadOperation.open(context, request)
        try:
            return await run_or_replay(context.keys, key, upload)
        finally:
            note_file(request, upload.file_id)


async def create_file(request: Request) -> Response:
    context = context_of(request)
    key = key_of(request)
    with context.files.operation("put"):
        create = await CreateOperation.open(context, request)
        return await run_or_replay(context.keys, key, create)


async def patch_file(request: Request) -> Response:
    context = context_of(request)
    key = key_of(request)
    with context.files.operation("update"):
        file_id, caller, condition = file_id_of(request), principal_of(request), _condition(request)
        asked = await _read_changes(request, context)
        change = (
            MakePermanent(context, file_id, caller, condition)
            if asked.makes_permanent
            else Patch(context, file_id, caller, condition, asked, context.clock.now())
        )
        return await run_or_replay(context.keys, key, change)


async def replace_content(request: Request) -> Response:
    context = context_of(request)
    key = key_of(request)
    with context.files.operation("update"):
        file_id, condition = file_id_of(request), _condition(request, of_content=True)
        if media_type(request) == FORM:
            raise UnsupportedMediaType("new content must be sent as the raw body, not as a form")
        body = open_raw(request, context.limits, context.clock)
        asked = read_parameters(request.query_params.multi_items(), {"content_type": _media_type})
        replace = Replace(context, file_id, principal_of(request), condition, body, asked.get("content_type"))
        return await run_or_replay(context.keys, key, replace)


async def delete_file(request: Request) -> Response:
    context = context_of(request)
    key = key_of(request)
    with context.files.operation("delete"):
        delete = Delete(context, file_id_of(request), principal_of(request), _condition(request))
        return await run_or_replay(context.keys, key, delete)


async def redirect_to_query(request: Request) -> Response:
    """307, so that the `Location` of a 201 works at the ingester too: the client repeats the request at
    QUERY_URL."""
    context = context_of(request)
    file_id = file_id_of(request)
    if context.query_url is None:
        raise NotFound("files are read at query; set QUERY_URL to redirect readers there")
    path = f"/api/files/{file_id}" + ("/content" if request.url.path.endswith("/content") else "")
    parameters = request.scope["query_string"].decode("ascii", "replace")
    location = context.query_url.rstrip("/") + path + (f"?{parameters}" if parameters else "")
    return Response(status_code=307, headers={"location": location, "cache-control": "no-store"})


async def _read_changes(request: Request, context: Context) -> AskedChanges:
    if media_type(request) not in PATCH_TYPES:
        raise UnsupportedMediaType("changes must be sent as application/json")
    reader = BodyReader(request, context.limits, max_bytes=MAX_PATCH_BYTES, clock=context.clock)
    pieces = []
    while piece := await reader.next_chunk():
        pieces.append(piece)
    return parse_json(b"".join(pieces), AskedChanges)


def _media_type(value: str) -> str:
    try:
        return canonical_type(value)
    except InvalidFields:
        raise ValueError("must be a media type such as application/pdf") from None


def _condition(request: Request, *, of_content: bool = False) -> Precondition:
    return Precondition.parse(request.headers.getlist("if-match"), of_content=of_content)


FILE_ROUTES = [
    route(
        "POST",
        "/api/files/upload",
        upload_file,
        "Store a file: 201 means it is on disk",
        keyed({"201": answer("Stored; the answer is its attr.json", RECORD, headers={"Location": "The file"})}),
        transfer=True,
        description=UPLOAD_DESCRIPTION,
        parameters=[
            *(query(name, schema=schema) for name, schema in QUERY_SCHEMAS.items()),
            *DIGEST_HEADERS,
            IDEMPOTENCY_KEY,
        ],
        body={"multipart/form-data": FORM_SCHEMA, "application/octet-stream": BYTES_SCHEMA},
        encoding={"metadata": {"contentType": "application/json"}},
    ),
    route(
        "PUT",
        "/api/files/{file_id}",
        create_file,
        "Store a new file under an id of the client's",
        keyed({"201": answer("Stored; the answer is its attr.json", RECORD, headers={"Location": "The file"})}),
        transfer=True,
        description=CREATE_DESCRIPTION,
        parameters=[
            header("If-None-Match", "`*`", {"type": "string", "enum": ["*"]}, required=True),
            *(query(name, schema=schema) for name, schema in QUERY_SCHEMAS.items()),
            *DIGEST_HEADERS,
            IDEMPOTENCY_KEY,
        ],
        body={"application/octet-stream": BYTES_SCHEMA},
    ),
    route(
        "PATCH",
        "/api/files/{file_id}",
        patch_file,
        "Change attributes; absent ones stay",
        keyed({"200": RECORD_ANSWER, "202": QUEUED_ANSWER}),
        parameters=[IF_MATCH, IDEMPOTENCY_KEY],
        body={"application/json": CHANGES_SCHEMA},
    ),
    route(
        "DELETE",
        "/api/files/{file_id}",
        delete_file,
        "Delete a file on an element that allows it",
        keyed({"202": QUEUED_ANSWER, "204": answer("The file is deleted")}),
        parameters=[IF_MATCH, IDEMPOTENCY_KEY],
    ),
    route(
        "PUT",
        "/api/files/{file_id}/content",
        replace_content,
        "Replace a file's bytes; its attributes stay",
        keyed({"200": RECORD_ANSWER}),
        transfer=True,
        parameters=[
            query(
                "content_type",
                "The file's new content type, which the header Content-Type does not change",
                {"type": "string", "pattern": MEDIA_TYPE},
            ),
            IF_MATCH,
            *DIGEST_HEADERS,
            IDEMPOTENCY_KEY,
        ],
        body={"application/octet-stream": BYTES_SCHEMA},
    ),
    route(
        "GET",
        "/api/files/{file_id}",
        redirect_to_query,
        "Redirect to the attributes at query",
        REDIRECT_ANSWERS,
        honours=CONDITIONS | RANGES,
        operation_id="redirect_to_file",
    ),
    route(
        "GET",
        "/api/files/{file_id}/content",
        redirect_to_query,
        "Redirect to the bytes at query",
        REDIRECT_ANSWERS,
        honours=CONDITIONS | RANGES,
        operation_id="redirect_to_content",
    ),
]

"""/api/uploads: resumable uploads by tus 1.0 (docs/api-resumable.md)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps

from starlette.requests import Request
from starlette.responses import Response

from artstore.auth.access import principal_of
from artstore.contracts.schemas import component
from artstore.contracts.uploads import MAX_OFFSET, UPLOADS_PATH, UploadState
from artstore.errors import ArtStoreError, MethodNotAllowed, NotFound, UnsupportedHeader
from artstore.http.data_routes import Handler, note_file
from artstore.http.json import JsonResponse
from artstore.http.openapi import BYTES_SCHEMA, answer, header, object_schema, route
from artstore.http.problems import problem_response
from artstore.http.request_headers import RESUMABLE
from artstore.modes import ALLOWED, Operation

from ..core.context import context_of
from ..resumable import receive
from ..resumable.elements import Place, find_place
from ..resumable.finish import finish
from ..resumable.headers import (
    CONTENT_TYPE,
    FILE_ID_HEADER,
    VERSION,
    describe,
    describe_whole,
    has_content,
    number_in,
    options,
    require_content_type,
    require_version,
)

UPLOAD = UPLOADS_PATH + "/{upload_id}"
OVERRIDE = "x-http-method-override"


def _tus(handler: Handler) -> Handler:
    """Checks the version first, and names it in every answer."""

    @wraps(handler)
    async def spoken(request: Request) -> Response:
        try:
            require_version(request)
            return await handler(request)
        except ArtStoreError as error:
            refusal = problem_response(error)
            refusal.headers["tus-resumable"] = VERSION
            return refusal

    return spoken


async def show_options(request: Request) -> Response:
    """Needs no token: a browser asks before it has one."""
    return Response(status_code=204, headers=options(context_of(request).limits.max_file_bytes))


@_tus
async def create_upload(request: Request) -> Response:
    context = context_of(request)
    if "idempotency-key" in request.headers:
        raise UnsupportedHeader(
            "idempotency-key is not supported here: after a lost answer send HEAD to the upload",
            header="idempotency-key",
        )
    with_content = has_content(request)
    place, state = await receive.create(context, request)
    if with_content:
        try:
            state = await receive.append(context, request, place, 0)
        except BaseException:
            # The client does not know the upload: what cannot be removed now expires.
            await _remove_quietly(request, place)
            raise
    state = await finish(context, place, state)
    return _answer(request, state, 201, {"location": f"{UPLOADS_PATH}/{place.public_id}"})


@_tus
async def append_upload(request: Request) -> Response:
    context, place = context_of(request), _place(request)
    require_content_type(request)
    state = await receive.append(context, request, place, number_in(request, "Upload-Offset"))
    state = await finish(context, place, state)
    return _answer(request, state, 204)


@_tus
async def find_offset(request: Request) -> Response:
    """Ends a PATCH in progress: the client that asks has lost its connection.

    An upload that its element's mode has ended is answered 404, upon which clients of tus begin a new one.
    """
    context, place = context_of(request), _place(request)
    state = await finish(context, place, await context.uploads.find(place, interrupt=True))
    if not state.committed and Operation.CREATE not in ALLOWED[place.element.mode]:
        raise NotFound(f"{place.element.id} takes no more files: begin a new upload")
    return Response(status_code=200, headers=describe_whole(state))


@_tus
async def remove_upload(request: Request) -> Response:
    await context_of(request).uploads.remove(_place(request))
    return Response(status_code=204, headers={"tus-resumable": VERSION})


@_tus
async def override_method(request: Request) -> Response:
    """POST stands for a method that a proxy or an old client cannot send."""
    wanted = request.headers.get(OVERRIDE, "").upper()
    if wanted not in _OVERRIDDEN:
        raise MethodNotAllowed(f"name the method in X-HTTP-Method-Override: {', '.join(_OVERRIDDEN)}", allow=_ALLOW)
    return await _OVERRIDDEN[wanted](request)


async def show_upload(request: Request) -> Response:
    """Without Tus-Resumable, for programs and people; it interrupts nothing."""
    context, place = context_of(request), _place(request)
    state = await finish(context, place, await context.uploads.find(place))
    shown = {
        "upload_id": place.public_id,
        "offset": state.offset,
        "length": state.length,
        "expires_at": state.expires_at,
        "file_id": state.file_id if state.committed else None,
    }
    return JsonResponse(shown, headers={"cache-control": "no-store"})


async def _remove_quietly(request: Request, place: Place) -> None:
    try:
        await context_of(request).uploads.remove(place)
    except ArtStoreError:
        pass


def _place(request: Request) -> Place:
    subject = principal_of(request).subject
    return find_place(context_of(request).discovery, request.path_params["upload_id"], subject)


def _answer(request: Request, state: UploadState, status: int, headers: Mapping[str, str] | None = None) -> Response:
    if state.file_id is not None:
        note_file(request, state.file_id)
    return Response(status_code=status, headers={**describe(state), **(headers or {})})


_OVERRIDDEN: dict[str, Callable[[Request], Awaitable[Response]]] = {
    "PATCH": append_upload,
    "DELETE": remove_upload,
    "HEAD": find_offset,
}
_ALLOW = "DELETE, GET, HEAD, OPTIONS, PATCH, POST"

TUS = header("Tus-Resumable", "The version of the protocol", {"type": "string", "enum": [VERSION]}, required=True)
_OFFSETS = {"Upload-Offset": "The durable bytes", "Upload-Expires": "When an abandoned upload is removed"}
_COMPLETED = {**_OFFSETS, FILE_ID_HEADER: "The file, once the upload is complete"}
_BODY = {CONTENT_TYPE: BYTES_SCHEMA}
_NUMBER = {"type": "integer", "minimum": 0, "maximum": MAX_OFFSET}
_CHECKSUM = header("Upload-Checksum", "sha1, sha256 or md5, and the digest of this body in base64")
SHOWN = component(
    "ResumableUpload",
    object_schema(
        {
            "upload_id": {"type": "string"},
            "offset": _NUMBER,
            "length": {"type": ["integer", "null"], "minimum": 0},
            "expires_at": {"type": "string", "format": "date-time"},
            "file_id": {"type": ["string", "null"], "format": "uuid"},
        }
    ),
)
_CAPABILITIES = dict.fromkeys(("Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm"), "Protocol")

UPLOAD_ROUTES = [
    *(
        route(
            "OPTIONS",
            path,
            show_options,
            "What this server supports of tus",
            {"204": answer("Supported", headers=_CAPABILITIES)},
            tag="uploads",
            operation_id=name,
            honours=RESUMABLE,
        )
        for path, name in ((UPLOADS_PATH, "show_tus_options"), (UPLOAD, "show_upload_options"))
    ),
    route(
        "POST",
        UPLOADS_PATH,
        create_upload,
        "Begin a resumable upload (tus 1.0)",
        {"201": answer("Begun", headers={"Location": "The upload", **_COMPLETED})},
        tag="uploads",
        transfer=True,
        parameters=[
            TUS,
            header("Upload-Length", "Bytes of the file", _NUMBER),
            header("Upload-Defer-Length", "1: a PATCH states the length", {"type": "string", "enum": ["1"]}),
            header("Upload-Metadata", "filename, filetype, tags, metadata, retention, ttl_days, each in base64"),
            _CHECKSUM,
        ],
    ),
    route(
        "GET",
        UPLOAD,
        show_upload,
        "The state of an upload of this account",
        {"200": answer("The upload", SHOWN)},
        tag="uploads",
    ),
    route(
        "HEAD",
        UPLOAD,
        find_offset,
        "The offset to continue from; ends a PATCH in progress",
        {"200": answer("No body", headers={**_COMPLETED, "Upload-Length": "Bytes of the file"})},
        tag="uploads",
        parameters=[TUS],
    ),
    route(
        "PATCH",
        UPLOAD,
        append_upload,
        "Append bytes; the offset of the answer is durable",
        {"204": answer("Appended", headers=_COMPLETED)},
        tag="uploads",
        transfer=True,
        parameters=[
            TUS,
            header("Upload-Offset", "Where the bytes begin", _NUMBER, required=True),
            header("Upload-Length", "Of an upload that was begun without it", _NUMBER),
            _CHECKSUM,
        ],
        body=_BODY,
    ),
    route(
        "POST",
        UPLOAD,
        override_method,
        "PATCH, HEAD or DELETE, named in X-HTTP-Method-Override, with the headers and the content of that method",
        {"200": answer("As HEAD"), "204": answer("As PATCH or DELETE")},
        tag="uploads",
        transfer=True,
        parameters=[
            TUS,
            header("X-HTTP-Method-Override", schema={"type": "string", "enum": [*_OVERRIDDEN]}, required=True),
        ],
    ),
    route(
        "DELETE",
        UPLOAD,
        remove_upload,
        "Remove an upload; a file that was made of it stays",
        {"204": answer("Removed")},
        tag="uploads",
        parameters=[TUS],
    ),
]

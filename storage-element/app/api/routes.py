"""The routes of the data plane and their entries in /openapi.json."""

from __future__ import annotations

from functools import wraps
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from artstore.contracts.schemas import FILENAME, METADATA, TAGS, component, page
from artstore.contracts.schemas import RECORD as RECORD_SCHEMA
from artstore.contracts.storage import (
    ACCOUNT_HEADER,
    AT_MOST_HEADER,
    FILES_HEADER,
    MOVED_HEADER,
    NEW_FILE_HEADER,
    PUT_GROUP_PATH,
    SAGA_HEADER,
)
from artstore.contracts.uploads import (
    CHECKSUM_HEADER,
    INTERRUPT,
    LENGTH_HEADER,
    MAX_OFFSET,
    OFFSET_HEADER,
    UPLOADS_PATH,
    Complete,
    NewUpload,
    Settle,
    UploadState,
)
from artstore.errors import NotFound, StorageFull
from artstore.http.data_routes import DataRoute, Handler
from artstore.http.link_route import link_route
from artstore.http.lists import MAX_LIMIT
from artstore.http.openapi import (
    BYTES_CONTENT,
    BYTES_SCHEMA,
    DIGEST_HEADERS,
    IF_MATCH,
    NAME_SCHEMA,
    TEXT_SCHEMA,
    UUID_SCHEMA,
    answer,
    header,
    object_schema,
    query,
    route,
    struct_schema,
)

from ..core.context import context_of
from . import files, links, uploads
from .copy import copy_file
from .put_group import put_group

CHANGES = component(
    "StoredFileChanges",
    {
        "type": "object",
        "additionalProperties": False,
        "minProperties": 1,
        "properties": {
            "filename": FILENAME,
            "tags": TAGS,
            "metadata": METADATA,
            "expires_at": {"type": "string", "format": "date-time"},
            "moving_to": {"type": "string"},
        },
    },
)
COPY_ORDER = component(
    "CopyOrder",
    object_schema(
        {
            "saga_id": UUID_SCHEMA,
            "source_id": TEXT_SCHEMA,
            "source_url": TEXT_SCHEMA,
            "token": TEXT_SCHEMA,
            "record": RECORD_SCHEMA,
        }
    ),
)
FILE = "/api/files/{file_id}"
CONTENT = "/api/files/{file_id}/content"
RECORD = answer("attr.json", RECORD_SCHEMA)
UPLOAD = UPLOADS_PATH + "/{upload_id}"
ACCOUNT = header(ACCOUNT_HEADER, "The `sub` of the account whose upload it is", NAME_SCHEMA, required=True)
STATE = answer("The upload", struct_schema(UploadState))
NUMBER = {"type": "integer", "minimum": 0, "maximum": MAX_OFFSET}
UPLOAD_ID = {"name": "upload_id", "in": "path", "required": True, "schema": UUID_SCHEMA}
BYTES = {"application/octet-stream": BYTES_SCHEMA}
DIGESTS = [one for one in DIGEST_HEADERS if one["name"] != "Content-Digest"]
SAGA = {"type": "string", "format": "uuid", "pattern": "^[0-9a-f-]{36}$"}
NEW_FILE = {"type": "string", "minLength": 1, "description": "The new file's attributes as percent-encoded JSON"}
FILE_IDS = {
    "type": "string",
    "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(,[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})*$",
}
PARTS = {"200": "All of it", "206": "A part"}


def _while_serving(handler: Handler) -> Handler:
    """Wraps the handler of a data route: 503 while the element does not serve. Admin learns that an upload did not fit before
    its sender."""

    @wraps(handler)
    async def served(request: Request) -> Response:
        context = context_of(request)
        serving = context.serving
        serving.require()
        try:
            return await handler(request)
        except StorageFull:
            await context.element.announce_full()
            raise
        except NotFound as error:
            explained = serving.explain(error)
            if explained is error:
                raise
            raise explained from error

    return served


def _route(
    method: str, path: str, handler: Handler, summary: str, responses: dict[str, Any], **described: Any
) -> DataRoute:
    return route(
        method,
        path,
        _while_serving(handler),
        summary,
        responses,
        transfer=described.get("body") is BYTES or (method == "GET" and path == CONTENT),
        operation_id="head_content" if method == "HEAD" else handler.__name__,
        **described,
    )


ROUTES = [
    link_route(_while_serving(links.read_link)),
    _route(
        "PUT",
        FILE,
        files.put_file,
        "Store a file for a saga; durable when answered",
        {"201": RECORD, "200": answer("The same saga had put the file already", RECORD_SCHEMA)},
        parameters=[
            header(SAGA_HEADER, schema=SAGA, required=True),
            header(NEW_FILE_HEADER, schema=NEW_FILE, required=True),
            header(AT_MOST_HEADER, "The most bytes that the body may have, if it states no length", NUMBER),
            *DIGESTS,
        ],
        body=BYTES,
    ),
    _route(
        "POST",
        PUT_GROUP_PATH,
        put_group,
        "Store several small files; each has a result of its own, and those of status 201 are durable",
        {"200": {"description": "The results in the order of the files", "content": BYTES}},
        body=BYTES,
    ),
    _route(
        "POST",
        FILE + "/copy",
        copy_file,
        "Put a file for a saga as another element has it; durable when answered",
        {"201": RECORD, "200": answer("The same saga had put the file already", RECORD_SCHEMA)},
        body={"application/json": COPY_ORDER},
    ),
    _route("GET", FILE, files.get_file, "attr.json as stored", {"200": RECORD}),
    _route(
        "PATCH",
        FILE,
        files.patch_file,
        "Change attributes; absent ones are kept",
        {"200": RECORD},
        parameters=[IF_MATCH],
        body={"application/json": CHANGES},
    ),
    _route(
        "DELETE",
        FILE,
        files.delete_file,
        "Delete a file; with a saga id, only if that saga put it",
        {"204": answer("The file does not exist any more")},
        parameters=[header(SAGA_HEADER, schema=SAGA), header(MOVED_HEADER), IF_MATCH],
    ),
    _route(
        "GET",
        CONTENT,
        files.get_content,
        "The bytes, or one range of them",
        {name: answer(text) | {"content": BYTES_CONTENT} for name, text in PARTS.items()},
        parameters=[header("Range"), header("If-Range"), header("If-Match", "The checksum")],
    ),
    _route(
        "HEAD",
        CONTENT,
        files.get_content,
        "Length, type and ETag of the bytes",
        {"200": answer("No body")},
        parameters=[header("If-Match", "The checksum")],
    ),
    _route(
        "PUT",
        CONTENT,
        files.put_content,
        "Replace the bytes",
        {"200": RECORD},
        parameters=[IF_MATCH, *DIGESTS],
        body=BYTES,
    ),
    _route(
        "GET",
        "/api/files/contents",
        files.get_contents,
        "Several small files, in MessagePack",
        {"200": answer("One item for each id", BYTES_SCHEMA, media_type="application/msgpack")},
        parameters=[header(FILES_HEADER, schema=FILE_IDS, required=True)],
    ),
    _route(
        "GET",
        "/api/files",
        files.get_files,
        "The files on this element's disk, in the order of its folders",
        {"200": answer("A page", page("StoredFilePage", RECORD_SCHEMA))},
        parameters=[
            query("limit", schema={"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}),
            query("cursor", schema=UUID_SCHEMA),
        ],
    ),
    _route(
        "POST",
        UPLOADS_PATH,
        uploads.create_upload,
        "Begin a resumable upload, whose bytes wait on this element",
        {"201": STATE},
        parameters=[ACCOUNT],
        body={"application/json": struct_schema(NewUpload)},
    ),
    _route(
        "GET",
        UPLOAD,
        uploads.show_upload,
        "Its durable offset; with `interrupt` a running PATCH is ended first",
        {"200": STATE},
        parameters=[UPLOAD_ID, ACCOUNT, query(INTERRUPT, schema={"type": "boolean"})],
    ),
    _route(
        "PATCH",
        UPLOAD,
        uploads.append_upload,
        "Append bytes; durable when answered",
        {"200": STATE},
        parameters=[
            UPLOAD_ID,
            ACCOUNT,
            header(OFFSET_HEADER, schema=NUMBER, required=True),
            header(LENGTH_HEADER, schema=NUMBER),
            header(CHECKSUM_HEADER),
        ],
        body=BYTES,
    ),
    _route(
        "DELETE",
        UPLOAD,
        uploads.remove_upload,
        "Remove it",
        {"204": answer("Removed")},
        parameters=[UPLOAD_ID, ACCOUNT],
    ),
    _route(
        "POST",
        UPLOAD + "/complete",
        uploads.complete_upload,
        "Make the file, for a saga; durable when answered",
        {"201": RECORD, "200": answer("The same saga had made the file already", RECORD_SCHEMA)},
        parameters=[UPLOAD_ID, ACCOUNT],
        body={"application/json": struct_schema(Complete)},
    ),
    _route(
        "POST",
        UPLOAD + "/settle",
        uploads.settle_upload,
        "Its saga was committed, or given up",
        {"200": STATE},
        parameters=[UPLOAD_ID, ACCOUNT],
        body={"application/json": struct_schema(Settle)},
    ),
]

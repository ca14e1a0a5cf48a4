"""The routes of the data plane and their entries in /openapi.json."""

from __future__ import annotations

from functools import wraps
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from artstore.contracts.storage import NEW_FILE_HEADER, SAGA_HEADER
from artstore.errors import NotFound
from artstore.http import request_headers
from artstore.http.data_routes import DataRoute, Handler
from artstore.http.request_headers import CONDITIONS, RANGES

from ..core.context import context_of
from . import files

RECORD = {"description": "attr.json", "content": {"application/json": {"schema": {"type": "object"}}}}
BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
FILE = "/api/files/{file_id}"
CONTENT = "/api/files/{file_id}/content"
FILE_ID: dict[str, Any] = {
    "name": "file_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "format": "uuid"},
}


def _header(name: str, *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": required, "schema": {"type": "string"}}


def _query(name: str, kind: str, **bounds: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": {"type": kind, **bounds}}


DIGESTS = [_header("Repr-Digest"), _header("Content-MD5")]
IF_MATCH = _header("If-Match")


def _while_serving(handler: Handler) -> Handler:
    """Wraps the handler of a data route: 503 while the element does not serve."""

    @wraps(handler)
    async def served(request: Request) -> Response:
        serving = context_of(request).serving
        serving.require()
        try:
            return await handler(request)
        except NotFound as error:
            explained = serving.explain(error)
            if explained is error:
                raise
            raise explained from error

    return served


def _route(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    answers: dict[str, Any],
    parameters: list[dict[str, Any]] | None = None,
    content: dict[str, Any] | None = None,
) -> DataRoute:
    described: dict[str, Any] = {
        "tags": ["files"],
        "summary": summary,
        "operationId": f"{method.lower()}_{handler.__name__}",
        "parameters": [*([FILE_ID] if "{file_id}" in path else []), *(parameters or [])],
        "responses": answers,
    }
    if content is not None:
        described["requestBody"] = {"required": True, "content": content}
    stated = {parameter["name"].lower() for parameter in parameters or [] if parameter["in"] == "header"}
    honours = frozenset(stated & (CONDITIONS | RANGES | request_headers.DIGESTS))
    transfer = content is BYTES or (method == "GET" and path == CONTENT)
    return DataRoute(path, [method], _while_serving(handler), {method.lower(): described}, honours, transfer)


ROUTES = [
    _route(
        "PUT",
        FILE,
        files.put_file,
        "Store a file for a saga; durable when answered",
        {"201": RECORD, "200": {**RECORD, "description": "The same saga had put the file already"}},
        [_header(SAGA_HEADER, required=True), _header(NEW_FILE_HEADER, required=True), *DIGESTS],
        BYTES,
    ),
    _route("GET", FILE, files.get_file, "attr.json as stored", {"200": RECORD}),
    _route(
        "PATCH",
        FILE,
        files.patch_file,
        "Change attributes; absent ones are kept",
        {"200": RECORD},
        [IF_MATCH],
        {"application/json": {"schema": {"type": "object"}}},
    ),
    _route(
        "DELETE",
        FILE,
        files.delete_file,
        "Delete a file; with a saga id, only if that saga put it",
        {"204": {"description": "The file does not exist any more"}},
        [_header(SAGA_HEADER), IF_MATCH],
    ),
    _route(
        "GET",
        CONTENT,
        files.get_content,
        "The bytes, or one range of them",
        {"200": {"description": "All of it", "content": BYTES}, "206": {"description": "A part", "content": BYTES}},
        [_header("Range"), _header("If-Range"), IF_MATCH],
    ),
    _route(
        "HEAD",
        CONTENT,
        files.get_content,
        "Length, type and ETag of the bytes",
        {"200": {"description": "No body"}},
        [IF_MATCH],
    ),
    _route("PUT", CONTENT, files.put_content, "Replace the bytes", {"200": RECORD}, [IF_MATCH, *DIGESTS], BYTES),
    _route(
        "GET",
        "/api/files",
        files.get_files,
        "The files on this element's disk, in the order of its folders",
        {"200": RECORD},
        [_query("limit", "integer", minimum=1, maximum=1000), _query("cursor", "string", format="uuid")],
    ),
]

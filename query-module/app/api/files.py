"""GET /api/files, GET /api/changes, GET /api/files/{file_id} and GET|HEAD …/content."""

from __future__ import annotations

from typing import cast

from starlette.requests import Request
from starlette.responses import Response

from artstore.contracts.files import canonical_id
from artstore.errors import ArtStoreError, NotFound
from artstore.http.json import JsonResponse
from artstore.http.request_headers import CONDITIONS, RANGES
from artstore.service import DataRoute

from ..core.context import Context
from ..reading.conditions import Validators, check_unchanged, conditions_in, is_known_to_client, validators_of
from ..reading.lookup import Found
from ..search.feed import encode_position, parse_feed
from ..search.parse import parse
from ..search.search import search
from . import degraded, documents
from .degraded import saying_what_is_away

SOURCE_HEADER = "x-artstore-source"


async def attributes(request: Request) -> Response:
    """The record is attr.json to the byte; its ETag is the revision, as PATCH wants it in If-Match."""
    context = _context(request)
    with context.files.operation("read"):
        found = await context.lookup.find(_file_id(request))
    record = found.record
    dated = validators_of(record.attributes)
    validators = Validators(f'"{record.revision}"', dated.last_modified, date_is_strong=False)
    conditions = conditions_in(request.scope["headers"])
    check_unchanged(conditions, validators)
    fields = {"etag": validators.etag, "cache-control": "private, no-cache", **_origin(found)}
    if conditions.get("if-none-match") and is_known_to_client(conditions, validators):
        return Response(status_code=304, headers=fields)
    return JsonResponse(record.encoded, headers=fields)


async def content(request: Request) -> Response:
    context = _context(request)
    try:
        conditions = conditions_in(request.scope["headers"])
        found, answer = await context.content.answer(_file_id(request), request.method, conditions)
    except ArtStoreError as error:  # once the answer has begun, Relay counts how it ended
        context.files.operations.labels("download", error.code).inc()
        raise
    answer.headers.update(_origin(found))
    return answer


async def listing(request: Request) -> Response:
    """The items are put together as they are: each is JSON already."""
    context = _context(request)
    with context.files.operation("list"):
        page = await search(context.database, parse(request.query_params.multi_items()))
    cursor = f'"{page.next_cursor}"'.encode() if page.next_cursor else b"null"
    body = b'{"items":[' + b",".join(page.items) + b'],"next_cursor":' + cursor + b"}"
    fields = {SOURCE_HEADER: "database"}
    if not context.discovery.catalog_complete:
        fields[degraded.HEADER] = degraded.CATALOG
    return JsonResponse(body, headers=fields)


async def changes(request: Request) -> Response:
    context = _context(request)
    with context.files.operation("list"):
        page = await context.feed.read(*parse_feed(request.query_params.multi_items()))
    cursor = encode_position(page.next).encode()
    body = b'{"items":[' + b",".join(page.items) + b'],"next_cursor":"' + cursor + b'"}'
    return JsonResponse(body, headers={SOURCE_HEADER: "database"})


def _context(request: Request) -> Context:
    return cast(Context, request.app.state.context)


def _file_id(request: Request) -> str:
    """In the canonical form. What is no UUID is the id of no file."""
    file_id = canonical_id(request.path_params["file_id"])
    if file_id is None:
        raise NotFound("there is no file with this id")
    return file_id


def _origin(found: Found) -> dict[str, str]:
    """Which level answered, and what was away on the way to it."""
    fields: dict[str, str] = {SOURCE_HEADER: found.source}
    if found.away:
        fields[degraded.HEADER] = ", ".join(found.away)
    return fields


ROUTES = [
    DataRoute("/api/changes", ["GET"], saying_what_is_away(changes), documents.CHANGES),
    DataRoute("/api/files", ["GET"], saying_what_is_away(listing), documents.LISTING),
    DataRoute("/api/files/{file_id}", ["GET"], saying_what_is_away(attributes), documents.ATTRIBUTES, CONDITIONS),
    DataRoute(
        "/api/files/{file_id}/content",
        ["GET", "HEAD"],
        saying_what_is_away(content),
        documents.CONTENT,
        CONDITIONS | RANGES,
        transfer=True,
    ),
]

"""GET /api/files, GET /api/changes, GET /api/files/{file_id} and GET|HEAD …/content.

Every answer names the unavailable dependencies in X-ArtStore-Degraded, also when it did not need them.
"""

from __future__ import annotations

from functools import wraps

from starlette.requests import Request
from starlette.responses import Response

from artstore.audit.reads import part_of
from artstore.auth.access import principal_of
from artstore.errors import DATABASE, REDIS, ArtStoreError, InvalidFields
from artstore.health import Health
from artstore.http.content_head import DISPOSITIONS, FieldsResponse, as_inline
from artstore.http.data_routes import DataRoute, Handler, file_id_of
from artstore.http.json import JsonResponse
from artstore.http.preconditions import Validators, check_unchanged, conditions_in, is_known_to_client
from artstore.http.problems import problem_response
from artstore.http.request_headers import CONDITIONS, RANGES

from ..core.context import context_of
from ..reading.levels import SOURCES
from ..reading.lookup import Found
from ..reading.relay import Relay
from ..search.feed import encode_position, parse_feed
from ..search.parse import parse
from ..search.search import search
from . import documents

SOURCE_HEADER = "x-artstore-source"
DEGRADED_HEADER = "x-artstore-degraded"
_DEGRADED = DEGRADED_HEADER.encode()
_SOURCE_FIELDS = {source: (SOURCE_HEADER.encode(), source.encode()) for source in SOURCES}
_REVALIDATE = (b"cache-control", b"private, no-cache")
_NOT_STORED = {"cache-control": "no-store"}
"""A list is different at the next moment."""
_JSON = (b"content-type", b"application/json")
CATALOG = "catalog"
"""A list may lack files: the catalog was restored or lost, and not every element has reconciled it with its disk yet."""
SEARCH = "search"
"""A search by `q` may lack files: the index of words is being built, or is late."""
CACHES = (REDIS, DATABASE)
"""Health checks whose failure removes a cache, change events or lists. An element is named by the handler that needs it."""


async def get_file(request: Request) -> Response:
    """The bytes of attr.json. The ETag is the revision, as PATCH expects it in If-Match."""
    context = context_of(request)
    with context.files.operation("read"):
        found = await context.lookup.find(file_id_of(request))
    record, account = found.record, principal_of(request).subject
    await context.reads.record(request, record.attributes, account, "attributes", by_link=False)
    fields = [(b"etag", b'"%d"' % record.revision), _REVALIDATE, *_origin(found)]
    conditions = conditions_in(request.scope["headers"])
    if conditions:
        last_modified = record.head.validators.last_modified
        validators = Validators(f'"{record.revision}"', last_modified, date_is_strong=False)
        check_unchanged(conditions, validators)
        if conditions.get("if-none-match") and is_known_to_client(conditions, validators):
            return FieldsResponse(304, fields)
    fields += (_JSON, (b"content-length", b"%d" % len(record.encoded)))
    return FieldsResponse(200, fields, record.encoded)


async def get_content(request: Request) -> Response:
    disposition = _disposition(request)
    found, answer = await read_content(request, file_id_of(request), principal_of(request).subject)
    if disposition == "inline":
        answer.raw_headers = as_inline(answer.raw_headers, found.record.attributes.content_type)
    return answer


async def read_content(
    request: Request, file_id: str, account: str, *, by_link: bool = False
) -> tuple[Found, Response]:
    """The answer to a download, whatever allows it."""
    context = context_of(request)
    try:
        conditions = conditions_in(request.scope["headers"])
        found, answer = await context.content.answer(file_id, request.method, conditions)
    except ArtStoreError as error:  # Content counts downloads whose answer has begun
        context.files.operations.labels("download", error.code).inc()
        raise
    try:
        part = part_of(request.method, answer.status_code)
        await context.reads.record(request, found.record.attributes, account, part, by_link=by_link)
    except BaseException:
        if isinstance(answer, Relay):
            await answer.discard()
        raise
    answer.raw_headers += _origin(found)
    return found, answer


def _disposition(request: Request) -> str:
    """Raises InvalidFields."""
    if not request.scope["query_string"]:
        return DISPOSITIONS[0]
    given = request.query_params.getlist("disposition") or DISPOSITIONS[:1]
    if len(given) > 1 or given[0] not in DISPOSITIONS:
        raise InvalidFields(f"disposition must be one of {', '.join(DISPOSITIONS)}", fields=["disposition"])
    return given[0]


async def list_files(request: Request) -> Response:
    """The items are joined as they are stored, because each is JSON already."""
    context = context_of(request)
    with context.files.operation("list"):
        page = await search(context.database, parse(request.query_params.multi_items()))
    cursor = f'"{page.next_cursor}"'.encode() if page.next_cursor else b"null"
    exact = b"true" if page.total_is_exact else b"false"
    total = b"" if page.total is None else b',"total":%d,"total_is_exact":%b' % (page.total, exact)
    body = b'{"items":[' + b",".join(page.items) + b'],"next_cursor":' + cursor + total + b"}"
    headers = {SOURCE_HEADER: "database", **_NOT_STORED}
    late = [] if context.discovery.catalog_complete else [CATALOG]
    if not page.complete:
        late.append(SEARCH)
    if late:
        headers[DEGRADED_HEADER] = ", ".join(late)
    return JsonResponse(body, headers=headers)


async def list_changes(request: Request) -> Response:
    context = context_of(request)
    with context.files.operation("list"):
        page = await context.feed.read(*parse_feed(request.query_params.multi_items()))
    cursor = encode_position(page.next).encode()
    body = b'{"items":[' + b",".join(page.items) + b'],"next_cursor":"' + cursor + b'"}'
    return JsonResponse(body, headers={SOURCE_HEADER: "database", **_NOT_STORED})


def _origin(found: Found) -> list[tuple[bytes, bytes]]:
    """The level that answered, and the dependencies found unavailable on the way."""
    source = _SOURCE_FIELDS[found.source]
    return [source, (_DEGRADED, ", ".join(found.away).encode())] if found.away else [source]


def with_degraded_header(handler: Handler) -> Handler:
    """Joins what the handler found unavailable, from its header or its error, with the failing health checks."""

    @wraps(handler)
    async def wrapped(request: Request) -> Response:
        found: list[str] = []
        try:
            answer = await handler(request)
        except ArtStoreError as error:
            answer = problem_response(error)
            found = _named_by(error)
        for name, value in answer.raw_headers:
            if name == _DEGRADED:
                found = value.decode().split(", ")
        failing = _failing(request.app.state.runtime.health, context_of(request).invalidation.subscribed)
        if found or failing:
            answer.headers[DEGRADED_HEADER] = ", ".join(dict.fromkeys([*found, *failing]))
        return answer

    return wrapped


def _named_by(error: ArtStoreError) -> list[str]:
    away = error.fields.get("away", ())
    return [away] if isinstance(away, str) else [str(name) for name in away]


def _failing(health: Health, subscribed: bool) -> list[str]:
    """Without a subscription Redis counts as unavailable even if it answers, because memory may be stale."""
    away = health.failing()
    if not away and subscribed:
        return []
    return [name for name in CACHES if name in away or (name == REDIS and not subscribed)]


ROUTES = [
    DataRoute("/api/changes", ["GET"], with_degraded_header(list_changes), {"get": documents.LIST_CHANGES}),
    DataRoute("/api/files", ["GET"], with_degraded_header(list_files), {"get": documents.LIST_FILES}),
    DataRoute("/api/files/{file_id}", ["GET"], with_degraded_header(get_file), {"get": documents.GET_FILE}, CONDITIONS),
    DataRoute(
        "/api/files/{file_id}/content",
        ["GET", "HEAD"],
        with_degraded_header(get_content),
        {"get": documents.GET_CONTENT, "head": documents.HEAD_CONTENT},
        CONDITIONS | RANGES,
        transfer=True,
    ),
]

"""POST /api/files/{file_id}/links, and GET|HEAD /api/links/{link}, which needs no token."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from artstore.auth.access import principal_of
from artstore.contracts.idempotency import REPLAYED
from artstore.http.content_head import as_inline
from artstore.http.data_routes import DataRoute, file_id_of
from artstore.http.idempotency_key import key_of
from artstore.http.json import JsonResponse, read_json
from artstore.http.link_route import LINKS_PATH, link_of, link_route
from artstore.http.origin import origin_of

from ..core.context import context_of
from ..links import LinkRequest
from . import documents
from .files import read_content, with_degraded_header

MAX_BODY_BYTES = 4096


async def make_link(request: Request) -> Response:
    context = context_of(request)
    file_id, origin, key = file_id_of(request), origin_of(request, context.public_url), key_of(request)
    wanted = await read_json(request, LinkRequest, MAX_BODY_BYTES)
    with context.files.operation("link"):
        found = await context.lookup.find(file_id)
        made = await context.links.make(found.record.attributes, principal_of(request), wanted, key)
    answer = {"url": f"{made.origin or origin}{LINKS_PATH}/{made.link}", "expires_at": made.expires_at}
    replayed = {REPLAYED: "true"} if made.replayed else {}
    return JsonResponse(answer, 201, {"cache-control": "no-store", **replayed})


async def read_link(request: Request) -> Response:
    """As a download with a token. The query string changes nothing."""
    link = link_of(request)
    found, answer = await read_content(request, link.file_id, link.account, by_link=True)
    if link.disposition == "inline":
        answer.raw_headers = as_inline(answer.raw_headers, found.record.attributes.content_type)
    return answer


ROUTES = [
    DataRoute("/api/files/{file_id}/links", ["POST"], with_degraded_header(make_link), {"post": documents.MAKE_LINK}),
    link_route(with_degraded_header(read_link), documents.ORIGIN_HEADERS),
]

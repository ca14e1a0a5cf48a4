"""POST /api/files/{file_id}/links and GET|HEAD /api/links/{link}, which needs no token."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from artstore.audit.access_denied import record_denied_link
from artstore.auth.access import principal_of
from artstore.auth.links import Link
from artstore.auth.tokens import Principal
from artstore.contracts.tokens import Permission, Role
from artstore.errors import LinkRefused
from artstore.http.body import limited_receive
from artstore.http.data_routes import DataRoute, file_id_of
from artstore.http.json import JsonResponse, read_json
from artstore.http.origin import origin_of
from artstore.http.request_headers import CONDITIONS, RANGES

from ..core.context import context_of
from ..links import LinkRequest
from ..reading.headers import as_inline
from . import documents
from .files import read_content, with_degraded_header

MAX_BODY_BYTES = 4096
LINK = "link"
"""Key in the request's state: the verified link."""


async def make_link(request: Request) -> Response:
    context = context_of(request)
    file_id, origin = file_id_of(request), origin_of(request, context.links.public_url)
    wanted = await read_json(Request(request.scope, limited_receive(request, MAX_BODY_BYTES)), LinkRequest)
    with context.files.operation("link"):
        found = await context.lookup.find(file_id)
        made = await context.links.make(found.record.attributes, principal_of(request), wanted)
    answer = {"url": origin + made.path, "expires_at": made.expires_at}
    return JsonResponse(answer, 201, {"cache-control": "no-store"})


async def admit_link(request: Request) -> Principal:
    """The account that made the link: its transfers are limited together with those under its tokens."""
    try:
        link = await context_of(request).links.verify(request.path_params["link"])
    except LinkRefused as error:
        await record_denied_link(request, error)
        raise
    request.scope["state"][LINK] = link
    return Principal(
        client_id=link.account,
        subject=link.account,
        role=Role.READONLY,
        permissions=frozenset({Permission.FILES_READ}),
        issued_at_s=link.issued_at_s,
        expires_at_s=link.expires_at_ms / 1000,
    )


async def read_link(request: Request) -> Response:
    """As a download with a token. The query string changes nothing."""
    link: Link = request.scope["state"][LINK]
    found, answer = await read_content(request, link.file_id)
    if link.disposition == "inline":
        answer.raw_headers = as_inline(answer.raw_headers, found.record.attributes.content_type)
    return answer


ROUTES = [
    DataRoute("/api/files/{file_id}/links", ["POST"], with_degraded_header(make_link), {"post": documents.MAKE_LINK}),
    DataRoute(
        "/api/links/{link}",
        ["GET", "HEAD"],
        with_degraded_header(read_link),
        {"get": documents.GET_LINK, "head": documents.HEAD_LINK},
        CONDITIONS | RANGES,
        transfer=True,
        admit=admit_link,
    ),
]

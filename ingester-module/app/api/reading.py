"""GET of a file at the ingester: a redirect to query, so that the `Location` of a 201 can be followed where it was given."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from artstore.contracts.files import canonical_id
from artstore.errors import NotFound
from artstore.http.request_headers import CONDITIONS, RANGES
from artstore.service import DataRoute

from ..core.context import Context


async def redirect_to_query(request: Request) -> Response:
    """307: the client repeats the request, with its token and conditions, at QUERY_URL."""
    context: Context = request.app.state.context
    given, _, rest = request.url.path.removeprefix("/api/files/").partition("/")
    file_id = canonical_id(given)
    if file_id is None:
        raise NotFound("no file has such an id")
    if context.query_url is None:
        raise NotFound("files are read at query; set QUERY_URL to have readers sent there")
    path = f"/api/files/{file_id}" + (f"/{rest}" if rest else "")
    query = request.scope["query_string"].decode("ascii", "replace")
    location = context.query_url.rstrip("/") + path + (f"?{query}" if query else "")
    return Response(status_code=307, headers={"location": location, "cache-control": "no-store"})


def _openapi(what: str, operation_id: str) -> dict[str, Any]:
    return {
        "get": {
            "tags": ["files"],
            "summary": f"{what} are read at query: a redirect there",
            "operationId": operation_id,
            "responses": {
                "307": {
                    "description": "The same path at query",
                    "headers": {"Location": {"schema": {"type": "string", "format": "uri"}}},
                }
            },
        }
    }


READING_ROUTES = [
    DataRoute(path, ["GET"], redirect_to_query, _openapi(what, operation_id), CONDITIONS | RANGES)
    for path, what, operation_id in (
        ("/api/files/{file_id}", "Attributes", "redirect_to_file"),
        ("/api/files/{file_id}/content", "Bytes", "redirect_to_content"),
    )
]

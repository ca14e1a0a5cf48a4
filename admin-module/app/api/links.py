"""POST /api/auth/links: query has a link signed. A link says nothing that its holder of `storage:read` could not read itself."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from artstore.auth.links import LinkOrder
from artstore.http.body import limited_receive
from artstore.http.data_routes import DataRoute
from artstore.http.json import JsonResponse, read_json
from artstore.http.openapi import TEXT_SCHEMA, UUID_SCHEMA, answer, object_schema, operation

from ..core.context import context_of
from ..identity.links import make_link
from .sagas import check_id

MAX_BODY_BYTES = 4096


async def make(request: Request) -> Response:
    context = context_of(request)
    order = await read_json(Request(request.scope, limited_receive(request, MAX_BODY_BYTES)), LinkOrder)
    check_id("account", order.account)
    check_id("file_id", order.file_id)
    made = await make_link(context.database, context.keyring.link_key, context.clock, order)
    return JsonResponse(made, 201, {"cache-control": "no-store"})


_ORDER = object_schema(
    {
        "account": UUID_SCHEMA,
        "token_issued_at_s": {"type": "integer"},
        "file_id": UUID_SCHEMA,
        "disposition": {"type": "string", "enum": ["inline", "attachment"]},
        "expires_at_ms": {"type": "integer"},
    }
) | {"additionalProperties": False}
_SIGNED = object_schema({"link": TEXT_SCHEMA, "expires_at_ms": {"type": "integer"}})
_MAKE = operation(
    "Sign a link to a file on behalf of an account",
    operation_id="sign_link",
    tag="keys",
    body={"application/json": _ORDER},
    responses={"201": answer("The link", _SIGNED)},
)
ROUTES = [DataRoute("/api/auth/links", ["POST"], make, {"post": _MAKE})]

"""POST /api/auth/links: query has a link signed. A link says nothing that its holder of `storage:read` could not read itself."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from artstore.auth.links import LinkOrder, LinkOrderKey, SignedLink
from artstore.contracts.idempotency import Answer
from artstore.http.data_routes import DataRoute
from artstore.http.idempotency_key import fingerprint_of
from artstore.http.json import JsonResponse, read_json
from artstore.http.openapi import NAME_SCHEMA, TEXT_SCHEMA, UUID_SCHEMA, answer, object_schema, operation

from ..core.context import Context, context_of
from ..identity.links import make_link
from ..once import Once
from .sagas import check_id

PATH = "/api/auth/links"
MAX_BODY_BYTES = 4096


async def make(request: Request) -> Response:
    context = context_of(request)
    order = await read_json(request, LinkOrder, MAX_BODY_BYTES)
    check_id("account", order.account)
    check_id("file_id", order.file_id)
    made = await _sign_once(context, order, order.key) if order.key is not None else await _sign(context, order)
    return JsonResponse(msgspec.json.encode(made), 201, {"cache-control": "no-store"})


async def _sign(context: Context, order: LinkOrder) -> SignedLink:
    return await make_link(context.database, context.keyring.link_key, context.clock, order)


async def _sign_once(context: Context, order: LinkOrder, key: LinkOrderKey) -> SignedLink:
    once = Once(context.cipher, key.client_id, key.key, fingerprint_of("POST", PATH, key.fingerprint))
    made = await _sign(context, order)  # not given out unless this transaction keeps it
    async with context.database.begin() as conn:
        if (first := await once.find_answer(conn)) is not None:
            return msgspec.structs.replace(msgspec.json.decode(first.body, type=SignedLink), replayed=True)
        await once.keep(conn, Answer(status=201, headers={}, body=msgspec.json.encode(made)))
    return made


_ORDER = object_schema(
    {
        "account": UUID_SCHEMA,
        "token_issued_at_s": {"type": "integer"},
        "file_id": UUID_SCHEMA,
        "disposition": {"type": "string", "enum": ["inline", "attachment"]},
        "expires_at_ms": {"type": "integer"},
    },
    {
        "key": object_schema(dict.fromkeys(("client_id", "key", "fingerprint"), NAME_SCHEMA))
        | {"additionalProperties": False}
    },
) | {"additionalProperties": False}
_SIGNED = object_schema({"link": TEXT_SCHEMA, "expires_at_ms": {"type": "integer"}}, {"replayed": {"type": "boolean"}})
_MAKE = operation(
    "Sign a link to a file on behalf of an account",
    operation_id="sign_link",
    tag="keys",
    body={"application/json": _ORDER},
    responses={"201": answer("The link", _SIGNED)},
)
ROUTES = [DataRoute(PATH, ["POST"], make, {"post": _MAKE})]

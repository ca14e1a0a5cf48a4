"""GET /api/sagas/{saga_id}: the state of a change that was answered 202, for its owner.

Reads the table directly, so that it answers while admin is unavailable.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from artstore.auth.access import principal_of
from artstore.catalog.find import find_saga
from artstore.contracts.files import canonical_id
from artstore.contracts.schemas import SAGA
from artstore.contracts.tokens import Permission
from artstore.errors import NotFound
from artstore.http.json import JsonResponse
from artstore.http.openapi import answer, route

from ..core.context import context_of

DATABASE_TIMEOUT_S = 5.0


async def show_saga(request: Request) -> Response:
    """404 for a saga of a different owner, unless the caller may read all sagas."""
    context = context_of(request)
    saga_id = canonical_id(request.path_params["saga_id"])
    saga = None
    if saga_id is not None:
        async with context.database.autocommit(timeout_s=DATABASE_TIMEOUT_S) as connection:
            saga = await find_saga(connection, saga_id)
    principal = principal_of(request)
    if saga is None or not (saga["owner"] == principal.client_id or Permission.SAGAS_READ in principal.permissions):
        raise NotFound("no saga has this id")
    return JsonResponse(saga)


SAGA_ROUTES = [
    route(
        "GET",
        "/api/sagas/{saga_id}",
        show_saga,
        "The state of a change that waits for its element",
        {"200": answer("The saga", SAGA)},
        tag="sagas",
    )
]

"""GET /api/sagas/{saga_id}: what has become of a change that was answered 202, for the one who asked for it.

Read past admin, which only writes the table: so it is answered while admin is away.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from artstore.auth.access import principal_of
from artstore.catalog.sagas import find_saga
from artstore.contracts.files import canonical_id
from artstore.contracts.schemas import SAGA
from artstore.contracts.tokens import Permission
from artstore.errors import NotFound
from artstore.http.json import JsonResponse
from artstore.service import DataRoute

from ..core.context import Context

PATIENCE_S = 5.0


async def show_saga(request: Request) -> Response:
    """Another's is not found, unless the caller may read all sagas."""
    context: Context = request.app.state.context
    saga_id = canonical_id(request.path_params["saga_id"])
    saga = None
    if saga_id is not None:
        async with context.database.alone(patience_s=PATIENCE_S) as connection:
            saga = await find_saga(connection, saga_id)
    principal = principal_of(request)
    if saga is None or not (saga["owner"] == principal.client_id or Permission.SAGAS_READ in principal.permissions):
        raise NotFound("there is no such saga")
    return JsonResponse(saga)


SAGA_ROUTES = [
    DataRoute(
        path="/api/sagas/{saga_id}",
        methods=["GET"],
        handler=show_saga,
        openapi={
            "get": {
                "tags": ["sagas"],
                "summary": "What has become of a change that waits for its element",
                "operationId": "show_saga",
                "responses": {"200": {"description": "The saga", "content": {"application/json": {"schema": SAGA}}}},
            }
        },
    )
]

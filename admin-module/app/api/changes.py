"""POST /api/sagas/changes: the ingester has a change remembered whose element is away."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from artstore.contracts.files import Changes, check_changes
from artstore.contracts.idempotency import accepted as waits
from artstore.contracts.sagas import QueueChange, SagaKind
from artstore.contracts.schemas import SAGA
from artstore.errors import InvalidFields
from artstore.failpoints import failpoint
from artstore.http.body import limited_receive
from artstore.http.json import JsonResponse, read_json
from artstore.service import DataRoute

from ..core.context import Context
from ..elements.registry import load_element
from ..sagas.keyed import keep_answers, require_key
from ..sagas.queue import Wish, queue_change
from .sagas import MAX_OWNER_CHARS

MAX_BODY_BYTES = 128 * 1024
MAX_REVISIONS = 64


async def queue(request: Request) -> Response:
    context: Context = request.app.state.context
    given = await read_json(Request(request.scope, limited_receive(request, MAX_BODY_BYTES)), QueueChange)
    wish = _wish(given)
    async with context.database.begin() as conn:
        # 1. under a key: only while its row names this saga; a repeat gets what was answered
        kept = await require_key(conn, wish.saga_id) if given.keyed else None
        if kept is None:
            # 2. the change, and with it its answer
            await load_element(conn, wish.storage_element_id)
            saga = await queue_change(conn, wish)
            kept = waits(wish.saga_id, orjson.dumps(saga))
            if given.keyed:
                await keep_answers(conn, {wish.saga_id: kept})
    failpoint("admin.change_queued")
    context.resume.kick()
    return Response(kept.body, kept.status, kept.headers)


def accepted(saga: dict[str, Any]) -> Response:
    """202 with the saga, and where to ask what has become of it."""
    return JsonResponse(saga, 202, {"location": f"/api/sagas/{saga['saga_id']}"})


def _wish(given: QueueChange) -> Wish:
    """Raises InvalidFields."""
    for name in ("saga_id", "file_id"):
        if not _is_id(getattr(given, name)):
            raise InvalidFields(f"{name} must be a UUID in lower case", fields=[name])
    if len(given.owner) > MAX_OWNER_CHARS or "\x00" in given.owner:
        raise InvalidFields("owner must be a client_id", fields=["owner"])
    revisions = given.if_revisions
    if revisions is not None and not (
        0 < len(revisions) <= MAX_REVISIONS and all(0 < one < 2**31 for one in revisions)
    ):
        raise InvalidFields(f"if_revisions must hold 1 to {MAX_REVISIONS} revisions", fields=["if_revisions"])
    wanted: dict[str, Any] = {"if_revisions": revisions}
    if given.kind is SagaKind.UPDATE and given.changes is not None:
        check_changes(given.changes)
        if given.changes == Changes():
            raise InvalidFields("nothing to change", fields=["changes"])
        # As text: jsonb would make other numbers of some of them.
        wanted["changes"] = msgspec.json.encode(given.changes).decode()
    elif given.kind is not SagaKind.DELETE or given.changes is not None:
        raise InvalidFields("an update needs changes, a delete must have none", fields=["kind", "changes"])
    return Wish(given.saga_id, given.kind, given.file_id, given.storage_element_id, given.owner, wanted)


def _is_id(given: str) -> bool:
    try:
        return str(UUID(given)) == given
    except ValueError:
        return False


_ID = {"type": "string", "format": "uuid"}
_CHANGE: dict[str, Any] = {
    "type": "object",
    "required": ["saga_id", "kind", "file_id", "storage_element_id", "owner"],
    "properties": {
        "saga_id": _ID,
        "kind": {"type": "string", "enum": [SagaKind.UPDATE.value, SagaKind.DELETE.value]},
        "file_id": _ID,
        "storage_element_id": {"type": "string"},
        "owner": {"type": "string", "maxLength": MAX_OWNER_CHARS},
        "changes": {"type": ["object", "null"]},
        "if_revisions": {"type": ["array", "null"], "items": {"type": "integer"}, "maxItems": MAX_REVISIONS},
    },
}

ROUTES = [
    DataRoute(
        "/api/sagas/changes",
        ["POST"],
        queue,
        {
            "post": {
                "tags": ["sagas"],
                "summary": "Remember a change of a file whose element is away",
                "operationId": "queue_change",
                "requestBody": {"required": True, "content": {"application/json": {"schema": _CHANGE}}},
                "responses": {
                    "202": {
                        "description": "The saga, durable",
                        "headers": {"Location": {"schema": {"type": "string"}}},
                        "content": {"application/json": {"schema": SAGA}},
                    }
                },
            }
        },
    )
]

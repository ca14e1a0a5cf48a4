"""POST /api/sagas/changes: the ingester queues a change whose element is away."""

from __future__ import annotations

from typing import Any

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
from artstore.http.data_routes import DataRoute
from artstore.http.json import JsonResponse, read_json
from artstore.http.openapi import UUID_SCHEMA, answer, object_schema, operation

from ..core.context import context_of
from ..elements.registry import load_element
from ..sagas.idempotency import keep_answer, require_key
from ..sagas.queue import ChangeRequest, queue_change
from .sagas import MAX_OWNER_CHARS, check_subject

MAX_BODY_BYTES = 128 * 1024
MAX_REVISIONS = 64


async def queue(request: Request) -> Response:
    context = context_of(request)
    given = await read_json(request, QueueChange, MAX_BODY_BYTES)
    change = _to_change_request(given)
    async with context.database.begin() as conn:
        # 1. with an Idempotency-Key: only while its row names this saga; a repeated request gets the stored
        #    answer
        kept = await require_key(conn, change.saga_id) if given.keyed else None
        if kept is None:
            # 2. queue the change, and store its answer in the same transaction
            await load_element(conn, change.storage_element_id)
            saga = await queue_change(conn, change)
            kept = waits(change.saga_id, orjson.dumps(saga))
            if given.keyed:
                await keep_answer(conn, change.saga_id, kept)
    failpoint("admin.change_queued")
    context.saga_worker.wake()
    return Response(kept.body, kept.status, kept.headers)


def accepted(saga: dict[str, Any]) -> Response:
    """202 with the saga and its URL."""
    return JsonResponse(saga, 202, {"location": f"/api/sagas/{saga['saga_id']}"})


def _to_change_request(given: QueueChange) -> ChangeRequest:
    """Raises InvalidFields."""
    check_subject(given)
    revisions = given.if_revisions
    if revisions is not None and not (
        0 < len(revisions) <= MAX_REVISIONS and all(0 < one < 2**31 for one in revisions)
    ):
        raise InvalidFields(f"if_revisions must be 1 to {MAX_REVISIONS} revisions", fields=["if_revisions"])
    wanted: dict[str, Any] = {"if_revisions": revisions, "account": given.account or given.owner}
    if given.kind is SagaKind.UPDATE and given.changes is not None:
        check_changes(given.changes)
        if given.changes == Changes():
            raise InvalidFields("changes must name at least one attribute", fields=["changes"])
        # Stored as text, because jsonb would change some numbers.
        wanted["changes"] = msgspec.json.encode(given.changes).decode()
    elif given.kind is SagaKind.MOVE and given.targets and given.changes is None:
        wanted["targets"] = given.targets
    elif given.kind is not SagaKind.DELETE or given.changes is not None:
        raise InvalidFields(
            "an update needs changes, a move targets, a delete neither", fields=["kind", "changes", "targets"]
        )
    return ChangeRequest(given.saga_id, given.kind, given.file_id, given.storage_element_id, given.owner, wanted)


_CHANGE = object_schema(
    {
        "saga_id": UUID_SCHEMA,
        "kind": {"type": "string", "enum": [SagaKind.UPDATE.value, SagaKind.DELETE.value, SagaKind.MOVE.value]},
        "file_id": UUID_SCHEMA,
        "storage_element_id": {"type": "string"},
        "owner": {"type": "string", "maxLength": MAX_OWNER_CHARS},
    },
    {
        "account": {"type": "string", "maxLength": MAX_OWNER_CHARS},
        "changes": {"type": ["object", "null"]},
        "targets": {"type": ["array", "null"], "items": {"type": "string"}},
        "if_revisions": {"type": ["array", "null"], "items": {"type": "integer"}, "maxItems": MAX_REVISIONS},
    },
)
_QUEUE = operation(
    "Queue a change of a file whose element is unavailable",
    operation_id="queue_change",
    tag="sagas",
    body={"application/json": _CHANGE},
    responses={"202": answer("The saga is durable", SAGA, headers={"Location": "The saga"})},
)
ROUTES = [DataRoute("/api/sagas/changes", ["POST"], queue, {"post": _QUEUE})]

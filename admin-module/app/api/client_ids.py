"""/api/sagas/claims: claim, commit and abort of an upload under an id that its client made, for the ingester."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from artstore.contracts.files import decode
from artstore.contracts.sagas import AbortClaim, Claimed, UploadCommit, UploadSaga
from artstore.errors import InvalidFields
from artstore.http.data_routes import DataRoute
from artstore.http.json import JsonResponse, read_json
from artstore.http.openapi import TEXT_SCHEMA, answer, object_schema, operation

from ..core.context import context_of
from ..sagas.upload import Commit
from .sagas import COMMIT_SCHEMA, MAX_REASON_CHARS, SAGA_SCHEMA, check_id, check_subject

MAX_BODY_BYTES = 64 * 1024


async def claim(request: Request) -> Response:
    saga = await read_json(request, UploadSaga, MAX_BODY_BYTES)
    check_subject(saga)
    return JsonResponse(Claimed(lease_s=await context_of(request).client_ids.claim(saga)))


async def commit(request: Request) -> Response:
    given = await read_json(request, UploadCommit, MAX_BODY_BYTES)
    check_id("saga_id", given.saga_id)
    try:
        attributes = decode(bytes(given.attributes))
    except ValueError as error:
        raise InvalidFields(str(error), fields=["attributes"]) from error
    await context_of(request).client_ids.commit(Commit(given.saga_id, attributes, given.keyed))
    return Response(status_code=204)


async def abort(request: Request) -> Response:
    given = await read_json(request, AbortClaim, MAX_BODY_BYTES)
    check_subject(given.saga)
    reason = given.reason.replace("\x00", "")[:MAX_REASON_CHARS]
    await context_of(request).client_ids.abort(given.saga, reason)
    return Response(status_code=204)


def _operation(operation_id: str, summary: str, body: dict[str, Any], responses: dict[str, Any]) -> dict[str, Any]:
    described = {"application/json": body}
    return {"post": operation(summary, operation_id=operation_id, tag="sagas", body=described, responses=responses)}


_CLAIM = _operation(
    "claim_id",
    "Begin an upload under an id that its client made, or renew its lease",
    SAGA_SCHEMA,
    {"200": answer("Nobody else gets the id", object_schema({"lease_s": {"type": "number"}}))},
)
_COMMIT = _operation("commit_claim", "Commit such an upload", COMMIT_SCHEMA, {"204": answer("The file is available")})
_ABORT = _operation(
    "abort_claim",
    "Undo such an upload",
    object_schema({"saga": SAGA_SCHEMA, "reason": TEXT_SCHEMA}),
    {"204": answer("The upload cannot be committed any more")},
)
ROUTES = [
    DataRoute("/api/sagas/claims", ["POST"], claim, _CLAIM),
    DataRoute("/api/sagas/claims/commit", ["POST"], commit, _COMMIT),
    DataRoute("/api/sagas/claims/abort", ["POST"], abort, _ABORT),
]

"""GET /api/audit, /api/audit/verify, /api/audit/checkpoints: for AUDITOR and ADMIN."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from artstore.auth.access import principal_of
from artstore.auth.guard import new_router
from artstore.contracts.tokens import Audience
from artstore.http.json import JsonResponse, page
from artstore.http.lists import DEFAULT_LIMIT
from artstore.http.openapi import MAX_JSON_INTEGER, TEXT_SCHEMA, described

from ..audit.checkpoints import find_checkpoint, list_checkpoints
from ..audit.read import Filters, list_events
from ..audit.seals import NDJSON, export
from ..core.context import context_of
from .documents import EVENTS, PRUNED, REPORT, SEAL, SIGNED
from .parameters import WHOLE, Cursor, Limit, Timestamp, allow_only, answer_page, parse_cursor

Filter = Annotated[str | None, Query(max_length=500, pattern=r"^[^\x00]*$")]
FILTERS = tuple(field.name for field in fields(Filters))
MAX_ROW_ID = MAX_JSON_INTEGER


def router() -> APIRouter:
    routes = new_router(Audience.ADMIN)
    base = "/api/audit"
    routes.get(
        base,
        tags=["audit"],
        summary="Audit events, newest first; or all of them as NDJSON, chain by chain",
        dependencies=[allow_only("format", *FILTERS)],
        **described("list_events", EVENTS, also={NDJSON: TEXT_SCHEMA}),
    )(list_all)
    routes.get(
        f"{base}/verify",
        tags=["audit"],
        summary="Verify every chain, from its beginning or from a checkpoint, and report every change",
        dependencies=[allow_only("from_checkpoint")],
        **described("verify_audit", REPORT),
    )(verify_chains)
    routes.get(
        f"{base}/checkpoints",
        tags=["audit"],
        summary="Signed heads of all chains, newest first",
        dependencies=[allow_only()],
        **described("list_checkpoints", SIGNED),
    )(checkpoints)
    routes.get(
        f"{base}/archive",
        tags=["audit"],
        summary="Everything after the newest seal, up to a checkpoint, as NDJSON: the same bytes at every request",
        dependencies=[allow_only("until")],
        responses={200: {"content": {NDJSON: {"schema": {"type": "string"}}}}},
        **described("export_archive"),
    )(archive)
    routes.get(
        f"{base}/seals",
        tags=["audit"],
        summary="Seals, newest first",
        dependencies=[allow_only()],
        **described("list_seals", SIGNED),
    )(list_seals)
    routes.post(
        f"{base}/seals",
        tags=["audit"],
        summary="Verify the archive up to a checkpoint and seal it",
        **described("create_seal", SEAL, 201),
    )(seal)
    routes.post(
        f"{base}/prune",
        tags=["audit"],
        summary="Delete rows below the newest seal; repeat while `left` is true",
        **described("prune_audit", PRUNED),
    )(prune)
    return routes


class SealRequest(BaseModel):
    """`sha256`: the digest of the caller's archive up to this checkpoint."""

    model_config = ConfigDict(extra="forbid")
    checkpoint: Annotated[int, Field(ge=1, le=MAX_ROW_ID), WHOLE]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class PruneRequest(BaseModel):
    """`seal`: the number of the newest seal."""

    model_config = ConfigDict(extra="forbid")
    seal: Annotated[int, Field(ge=1, le=MAX_ROW_ID), WHOLE]


def filters(
    action: Filter = None,
    user_id: Filter = None,
    result: Filter = None,
    service: Filter = None,
    chain: Filter = None,
    resource: Filter = None,
    since: Annotated[Timestamp | None, Query()] = None,
    until: Annotated[Timestamp | None, Query()] = None,
) -> Filters:
    """`since` is inclusive, `until` is exclusive."""
    return Filters(
        action=action,
        user_id=user_id,
        result=result,
        service=service,
        chain=chain,
        resource=resource,
        since=since,
        until=until,
    )


async def list_all(
    request: Request,
    wanted: Annotated[Filters, Depends(filters)],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    format: Annotated[Literal["json", "ndjson"] | None, Query()] = None,
) -> Response:
    context = context_of(request)
    if format == "ndjson" or (format is None and NDJSON in request.headers.get("accept", "")):
        headers = {"content-disposition": 'attachment; filename="audit.ndjson"'}
        return StreamingResponse(
            export(context.database, context.seals, context.clock, wanted), media_type=NDJSON, headers=headers
        )
    before = parse_cursor(cursor, _row_id)
    shown, next_cursor = await list_events(context.database, before, limit, wanted)
    return page([event for _, event in shown], None if next_cursor is None else str(next_cursor))


async def verify_chains(
    request: Request, from_checkpoint: Annotated[int | None, Query(ge=1, le=MAX_ROW_ID)] = None
) -> Response:
    return JsonResponse(await context_of(request).verification.run(from_checkpoint))


async def checkpoints(request: Request, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    before = parse_cursor(cursor, _row_id)
    async with context_of(request).database.begin() as conn:
        found = await list_checkpoints(conn, MAX_ROW_ID if before is None else before, limit + 1)
    return answer_page(found, limit, lambda checkpoint: checkpoint["number"])


async def archive(request: Request, until: Annotated[int, Query(ge=1, le=MAX_ROW_ID)]) -> Response:
    context = context_of(request)
    checkpoint = await find_checkpoint(context.database, until)
    headers = {"content-disposition": f'attachment; filename="audit-{until}.ndjson"'}
    return StreamingResponse(context.seals.archive(checkpoint), media_type=NDJSON, headers=headers)


async def list_seals(request: Request, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    before = parse_cursor(cursor, _row_id)
    found = [
        one for one in reversed(await context_of(request).seals.load()) if before is None or one["number"] < before
    ]
    return answer_page(found, limit, lambda one: one["number"])


async def seal(request: Request, wanted: SealRequest) -> Response:
    made = await context_of(request).seals.seal(wanted.checkpoint, wanted.sha256, principal_of(request).subject)
    return JsonResponse(made, 201)


async def prune(request: Request, wanted: PruneRequest) -> Response:
    return JsonResponse(await context_of(request).seals.prune(wanted.seal, principal_of(request).subject))


def _row_id(cursor: str) -> int:
    value = int(cursor) if cursor.isascii() and cursor.isdigit() else -1
    if not 0 <= value <= MAX_ROW_ID or str(value) != cursor:
        raise ValueError("out of range")
    return value

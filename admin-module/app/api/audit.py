"""GET /api/audit."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from artstore.auth.guard import new_router
from artstore.contracts.tokens import Audience
from artstore.jsons import page

from ..audit.read import list_events
from ..core.context import Context
from .paging import DEFAULT_LIMIT, Cursor, Limit, cut, parse_cursor

Filter = Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]*$")]
MAX_ROW_ID = 2**63 - 1


def router() -> APIRouter:
    routes = new_router(Audience.ADMIN)
    routes.get("/api/audit", tags=["audit"], summary="Audit events, newest first")(list_all)
    return routes


async def list_all(
    request: Request,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    action: Filter = None,
    user_id: Filter = None,
    result: Filter = None,
) -> Response:
    context: Context = request.app.state.context
    before = parse_cursor(cursor, _row_id)
    async with context.database.begin() as conn:
        rows = await list_events(conn, before, limit + 1, action=action, user_id=user_id, result=result)
    shown, following = cut(rows, limit, lambda row: row[0])
    return page([event for _, event in shown], following)


def _row_id(cursor: str) -> int:
    value = int(cursor)
    if not 0 <= value <= MAX_ROW_ID:
        raise ValueError("out of range")
    return value

"""The audit log for AUDITOR and ADMIN, newest first."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.clock import rfc3339

_PAGE = text(
    """SELECT id, "timestamp", service, action, user_id, resource, result, metadata, signature, chain, seq, prev
    FROM audit_events
    WHERE (CAST(:before AS bigint) IS NULL OR id < CAST(:before AS bigint))
      AND (CAST(:action AS text) IS NULL OR action = CAST(:action AS text))
      AND (CAST(:user_id AS text) IS NULL OR user_id = CAST(:user_id AS text))
      AND (CAST(:result AS text) IS NULL OR result = CAST(:result AS text))
    ORDER BY id DESC LIMIT :limit"""
)


async def list_events(
    conn: AsyncConnection,
    before: int | None,
    limit: int,
    *,
    action: str | None,
    user_id: str | None,
    result: str | None,
) -> list[tuple[int, dict[str, Any]]]:
    """(row id, event exactly as it was signed), those before row `before`."""
    values = {"before": before, "limit": limit, "action": action, "user_id": user_id, "result": result}
    rows = await conn.execute(_PAGE, values)
    return [(row["id"], _event(row)) for row in rows.mappings()]


def _event(row: Any) -> dict[str, Any]:
    event = {name: value for name, value in row.items() if name != "id"}
    return {**event, "timestamp": rfc3339(row["timestamp"])}

"""Sagas for an operator's eyes: what hangs, and why."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.clock import rfc3339
from artstore.errors import NotFound

from .saga import SagaState

_COLUMNS = """saga_id, kind, state, file_id, storage_element_id, abandoned, owner, due_at, attempts, reason, last_error,
    begun_at, updated_at"""
_ONE = text(f"SELECT {_COLUMNS} FROM sagas WHERE saga_id = :saga_id")
_PAGE = text(
    f"""SELECT {_COLUMNS} FROM sagas
    WHERE (CAST(:before AS uuid) IS NULL OR saga_id < CAST(:before AS uuid))
      AND (CAST(:state AS text) IS NULL OR state = CAST(:state AS text))
    ORDER BY saga_id DESC LIMIT :limit"""
)


async def load_saga(conn: AsyncConnection, saga_id: UUID) -> dict[str, Any]:
    """Raises NotFound."""
    row = (await conn.execute(_ONE, {"saga_id": saga_id})).mappings().first()
    if row is None:
        raise NotFound("there is no such saga")
    return _view(row)


async def list_sagas(
    conn: AsyncConnection, state: SagaState | None, before: UUID | None, limit: int
) -> list[dict[str, Any]]:
    """Newest first, those before `before`."""
    values = {"state": state.value if state else None, "before": before, "limit": limit}
    return [_view(row) for row in (await conn.execute(_PAGE, values)).mappings()]


def _view(row: Any) -> dict[str, Any]:
    return {
        **row,
        "saga_id": str(row["saga_id"]),
        "file_id": str(row["file_id"]),
        "due_at": rfc3339(row["due_at"]) if row["due_at"] else None,
        "begun_at": rfc3339(row["begun_at"]),
        "updated_at": rfc3339(row["updated_at"]),
    }

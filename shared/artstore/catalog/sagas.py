"""Reads sagas for operators and for clients that wait for a change. Admin and the ingester show the same
representation."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.clock import rfc3339

COLUMNS = """saga_id, kind, state, file_id, storage_element_id, abandoned, owner, due_at, attempts, reason, last_error,
    begun_at, updated_at, wanted, problem, greatest(0, extract(epoch FROM clock_timestamp() - begun_at))::float8 AS age_s,
    CASE WHEN state <> 'queued' THEN NULL
    WHEN file_id IS NOT NULL THEN (SELECT older.saga_id FROM sagas AS older WHERE older.state = 'queued'
        AND older.file_id = sagas.file_id AND older.begun_at < sagas.begun_at ORDER BY older.begun_at DESC LIMIT 1)
    ELSE (SELECT older.saga_id FROM sagas AS older WHERE older.state = 'queued' AND older.file_id IS NULL
        AND older.storage_element_id = sagas.storage_element_id AND older.begun_at < sagas.begun_at
        ORDER BY older.begun_at DESC LIMIT 1) END AS waits_for"""
"""The columns that `saga_view` needs, for a SELECT from `sagas`."""

_ONE = text(f"SELECT {COLUMNS} FROM sagas WHERE saga_id = CAST(:saga_id AS uuid)")


async def find_saga(connection: AsyncConnection, saga_id: str) -> dict[str, Any] | None:
    """The saga as `saga_view` shows it, or None. `saga_id` must be a UUID."""
    row = (await connection.execute(_ONE, {"saga_id": saga_id})).mappings().first()
    return None if row is None else saga_view(row)


def saga_view(row: Any) -> dict[str, Any]:
    """The JSON representation of a row. `due_at` is when admin acts next (null: never); `waits_for` is the
    change that must be applied first."""
    wanted = row["wanted"]
    if wanted is not None and "changes" in wanted:
        wanted = {**wanted, "changes": orjson.loads(wanted["changes"])}
    return {
        **row,
        "saga_id": str(row["saga_id"]),
        "file_id": _text(row["file_id"]),
        "waits_for": _text(row["waits_for"]),
        "due_at": rfc3339(row["due_at"]) if row["due_at"] else None,
        "begun_at": rfc3339(row["begun_at"]),
        "updated_at": rfc3339(row["updated_at"]),
        "age_s": round(row["age_s"], 3),
        "wanted": wanted,
    }


def _text(value: Any) -> str | None:
    return None if value is None else str(value)

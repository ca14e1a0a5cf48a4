"""Reads rows of files and sagas by id. Lists and searches belong to the modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.catalog.tables import AVAILABLE
from artstore.clock import rfc3339


@dataclass(frozen=True, slots=True)
class FileRow:
    """The catalog row of one file. `attributes` is attr.json, byte for byte."""

    file_id: str
    revision: int
    state: str
    saga_id: str | None
    storage_element_id: str
    attributes: bytes
    checked_at: datetime

    @property
    def available(self) -> bool:
        return self.state == AVAILABLE


_FIND = text(
    """
    SELECT file_id::text, revision, state, saga_id::text, storage_element_id, attributes, checked_at
    FROM files WHERE file_id = CAST(:file_id AS uuid)
    """
)
# Not `file_id = ANY($1)`: a connection plans a statement once, and while PostgreSQL has no statistics of a table that
# grows, it would read all of it for each call.
_FIND_MANY = """
    SELECT found.* FROM unnest($1::uuid[]) AS wanted(file_id) CROSS JOIN LATERAL (
        SELECT file_id::text, revision, state, saga_id::text, storage_element_id, attributes, checked_at
        FROM files WHERE files.file_id = wanted.file_id LIMIT 1) AS found
    """
SAGA_COLUMNS = """saga_id, kind, state, file_id, storage_element_id, abandoned, owner, due_at, attempts, reason, last_error,
    begun_at, updated_at, wanted, problem, greatest(0, extract(epoch FROM clock_timestamp() - begun_at))::float8 AS age_s,
    CASE WHEN state <> 'queued' THEN NULL
    WHEN file_id IS NOT NULL THEN (SELECT older.saga_id FROM sagas AS older WHERE older.state = 'queued'
        AND older.file_id = sagas.file_id AND older.begun_at < sagas.begun_at ORDER BY older.begun_at DESC LIMIT 1)
    ELSE (SELECT older.saga_id FROM sagas AS older WHERE older.state = 'queued' AND older.file_id IS NULL
        AND older.storage_element_id = sagas.storage_element_id AND older.begun_at < sagas.begun_at
        ORDER BY older.begun_at DESC LIMIT 1) END AS waits_for"""
"""The columns that `saga_view` needs, for a SELECT from `sagas`."""
_FIND_SAGA = text(f"SELECT {SAGA_COLUMNS} FROM sagas WHERE saga_id = CAST(:saga_id AS uuid)")


async def find_files(connection: AsyncConnection, file_ids: Sequence[str]) -> dict[str, FileRow]:
    """The existing rows, by id; one round trip. `file_ids` must be UUIDs.

    Uses the driver's own prepared statement, because SQLAlchemy would take longer than PostgreSQL. So the query is a
    transaction of its own, and an error is asyncpg's.
    """
    driver: Any = (await connection.get_raw_connection()).driver_connection
    found = await driver.fetch(_FIND_MANY, file_ids)
    return {row[0]: FileRow(row[0], row[1], row[2], row[3], row[4], row[5].encode(), row[6]) for row in found}


async def find_file(connection: AsyncConnection, file_id: str) -> FileRow | None:
    """The row in any state, or None. `file_id` must be a UUID."""
    found = (await connection.execute(_FIND, {"file_id": file_id})).one_or_none()
    if found is None:
        return None
    return FileRow(found[0], found[1], found[2], found[3], found[4], found[5].encode(), found[6])


async def find_saga(connection: AsyncConnection, saga_id: str) -> dict[str, Any] | None:
    """The saga as `saga_view` shows it, or None. `saga_id` must be a UUID."""
    row = (await connection.execute(_FIND_SAGA, {"saga_id": saga_id})).mappings().first()
    return None if row is None else saga_view(row)


def saga_view(row: Any) -> dict[str, Any]:
    """The JSON representation of a row. `due_at` is when admin acts next (null: never); `waits_for` is the
    change that must be applied first."""
    wanted = row["wanted"]
    if wanted is not None and "changes" in wanted:
        wanted = {**wanted, "changes": orjson.loads(wanted["changes"])}
    if wanted is not None:
        wanted = {name: value for name, value in wanted.items() if name != "account"}  # for the audit log
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

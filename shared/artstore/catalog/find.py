"""Reads catalog rows by file id. Lists and searches belong to the query module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.catalog.tables import AVAILABLE


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


_FIND_MANY = text(
    """
    SELECT file_id::text, revision, state, saga_id::text, storage_element_id, attributes, checked_at
    FROM files WHERE file_id = ANY(CAST(:file_ids AS uuid[]))
    """
)


async def find_files(connection: AsyncConnection, file_ids: Sequence[str]) -> dict[str, FileRow]:
    """The existing rows, by id. `file_ids` must be UUIDs."""
    found = await connection.execute(_FIND_MANY, {"file_ids": list(file_ids)})
    return {row[0]: FileRow(row[0], row[1], row[2], row[3], row[4], row[5].encode(), row[6]) for row in found}


async def find_file(connection: AsyncConnection, file_id: str) -> FileRow | None:
    """The row in any state, or None. `file_id` must be a UUID."""
    found = (await connection.execute(_FIND, {"file_id": file_id})).one_or_none()
    if found is None:
        return None
    return FileRow(found[0], found[1], found[2], found[3], found[4], found[5].encode(), found[6])

"""Reading the catalog by id. What is listed and searched for is the query module's own affair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.catalog.tables import AVAILABLE


@dataclass(frozen=True, slots=True)
class Row:
    """What the catalog knows of one file. `attributes` is attr.json to the byte."""

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


async def find_files(connection: AsyncConnection, file_ids: Sequence[str]) -> dict[str, Row]:
    """The rows there are, by id."""
    found = await connection.execute(_FIND_MANY, {"file_ids": list(file_ids)})
    return {row[0]: Row(row[0], row[1], row[2], row[3], row[4], row[5].encode(), row[6]) for row in found}


async def find_file(connection: AsyncConnection, file_id: str) -> Row | None:
    """The row in whatever state it is, or None. `file_id` must be a UUID."""
    found = (await connection.execute(_FIND, {"file_id": file_id})).one_or_none()
    if found is None:
        return None
    return Row(found[0], found[1], found[2], found[3], found[4], found[5].encode(), found[6])

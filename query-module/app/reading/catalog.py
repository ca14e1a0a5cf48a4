"""Level 3: the catalog's row, trusted for a day after it was last compared with the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from asyncpg import PostgresError
from sqlalchemy.exc import SQLAlchemyError

from artstore.catalog.find import FileRow, find_files
from artstore.clock import Clock
from artstore.contracts.files import decode
from artstore.database import Database
from artstore.errors import DATABASE, Unavailable
from artstore.groups import Group
from artstore.logs import get_logger

from .memory import Record

log = get_logger("query.catalog")

TTL = timedelta(days=1)
"""How long a row is trusted after it was last compared with the disk."""
MAX_GROUP = 64
QUERIES_AT_ONCE = 2
"""A slow one does not delay the next. With more, fewer lookups share a query."""


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A row. `record` is None while the upload is not committed. A `fresh` one need not be compared with the disk."""

    record: Record | None
    storage_element_id: str
    fresh: bool


class CatalogLevel:
    """Concurrent lookups share a query. A database that accepts connections and never answers costs a lookup
    `timeout_s`, until its breaker opens."""

    def __init__(self, database: Database, clock: Clock, *, timeout_s: float) -> None:
        self._database, self._clock = database, clock
        self._timeout_s = timeout_s
        self._queries: Group[str, FileRow | None] = Group(self._read, max_items=MAX_GROUP, parallel=QUERIES_AT_ONCE)

    async def find(self, file_id: str) -> CatalogEntry | None:
        """None without a readable row. Raises Unavailable when PostgreSQL or the table is missing."""
        row = await self._ask(file_id)
        if row is None:
            return None
        if not row.available:
            return CatalogEntry(None, row.storage_element_id, fresh=True)
        try:
            record = Record(decode(row.attributes), row.attributes)
        except ValueError as error:
            log.warning("catalog row unreadable", file_id=file_id, error=str(error))
            return None
        recent = row.checked_at + TTL > self._clock.now()
        # While PostgreSQL refuses writes, an acknowledged change may be missing from the row.
        return CatalogEntry(record, row.storage_element_id, fresh=recent and not self._database.refuses_writes)

    async def _ask(self, file_id: str) -> FileRow | None:
        """The query continues after the timeout, because it has to close the dead connection."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._queries.add(file_id)
        except TimeoutError as error:
            raise Unavailable(f"the catalog does not answer within {self._timeout_s:g} s", away=DATABASE) from error

    async def _read(self, file_ids: Sequence[str]) -> list[FileRow | BaseException | None]:
        try:
            async with self._database.autocommit(timeout_s=self._timeout_s) as connection:
                rows = await find_files(connection, file_ids)
        except (SQLAlchemyError, PostgresError) as error:  # like an outage: the disk can answer instead
            log.warning("catalog query failed", error=str(error))
            raise Unavailable("the catalog cannot be read", away=DATABASE) from error
        return [rows.get(file_id) for file_id in file_ids]

"""Level 3: the catalog's row, trusted for a day after it was last compared with the disk."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from artstore.catalog.find import FileRow, find_file
from artstore.clock import Clock
from artstore.contracts.files import decode
from artstore.database import Database
from artstore.errors import DATABASE, Unavailable
from artstore.logs import get_logger
from artstore.tasks import spawn

from .memory import Record

log = get_logger("query.catalog")

TTL = timedelta(days=1)
"""How long a row is trusted after it was last compared with the disk."""


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A row. `record` is None while the upload is not committed. A `fresh` one need not be compared with the disk."""

    record: Record | None
    storage_element_id: str
    fresh: bool


class CatalogLevel:
    """A database that accepts connections and never answers costs a lookup `timeout_s`, until its breaker opens."""

    def __init__(self, database: Database, clock: Clock, *, timeout_s: float) -> None:
        self._database, self._clock = database, clock
        self._timeout_s = timeout_s
        self._queries: set[asyncio.Task[FileRow | None]] = set()

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
        """In a task that continues after the timeout, because it has to close the dead connection."""
        query = spawn("catalog", self._read(file_id))
        self._queries.add(query)
        query.add_done_callback(self._finish)
        done, _ = await asyncio.wait((query,), timeout=self._timeout_s)
        if not done:
            raise Unavailable(f"the catalog does not answer within {self._timeout_s:g} s", away=DATABASE)
        return query.result()

    async def _read(self, file_id: str) -> FileRow | None:
        try:
            async with self._database.begin(timeout_s=self._timeout_s) as connection:
                return await find_file(connection, file_id)
        except SQLAlchemyError as error:  # like an outage: the disk can answer instead
            log.warning("catalog query failed", error=str(error))
            raise Unavailable("the catalog cannot be read", away=DATABASE) from error

    def _finish(self, query: asyncio.Task[FileRow | None]) -> None:
        self._queries.discard(query)
        if not query.cancelled():
            query.exception()  # retrieved here, because the caller may have stopped waiting

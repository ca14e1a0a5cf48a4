"""Level 3: the catalog's row, good for a day after it was last seen on disk."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from artstore.catalog.find import Row, find_file
from artstore.clock import Clock
from artstore.contracts.files import decode
from artstore.database import Database
from artstore.errors import Unavailable
from artstore.logs import get_logger
from artstore.tasks import spawn

from .memory import Record

log = get_logger("query.catalog")

TTL = timedelta(days=1)
"""How long a row counts after the file was last seen on disk."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the catalog says of a file. `record` is None while the upload's saga is open; `fresh` needs no look at disk."""

    record: Record | None
    storage_element_id: str
    fresh: bool


class CatalogLevel:
    """A database that accepts and does not answer costs a lookup `patience_s`, until its breaker opens."""

    def __init__(self, database: Database, clock: Clock, *, patience_s: float) -> None:
        self._database, self._clock = database, clock
        self._patience_s = patience_s
        self._asking: set[asyncio.Task[Row | None]] = set()

    async def find(self, file_id: str) -> Known | None:
        """None for no row, or one that cannot be read. Raises Unavailable when PostgreSQL, or the table, is away."""
        row = await self._ask(file_id)
        if row is None:
            return None
        if not row.available:
            return Known(None, row.storage_element_id, fresh=True)
        try:
            record = Record(decode(row.attributes), row.attributes)
        except ValueError as error:
            log.warning("catalog row unreadable", file_id=file_id, error=str(error))
            return None
        recent = row.checked_at + TTL > self._clock.now()
        # while PostgreSQL refuses writes, the row may be of the revision before an acknowledged change
        return Known(record, row.storage_element_id, fresh=recent and not self._database.refuses_writes)

    async def _ask(self, file_id: str) -> Row | None:
        """In a task of its own, which goes on when patience ends: it still has a dead connection to put away."""
        asking = spawn("catalog", self._read(file_id))
        self._asking.add(asking)
        asking.add_done_callback(self._asked)
        done, _ = await asyncio.wait((asking,), timeout=self._patience_s)
        if not done:
            raise Unavailable(f"the catalog does not answer within {self._patience_s:g} s", away="database")
        return asking.result()

    async def _read(self, file_id: str) -> Row | None:
        try:
            async with self._database.begin(patience_s=self._patience_s) as connection:
                return await find_file(connection, file_id)
        except SQLAlchemyError as error:  # a cache that refuses is a cache that is away: the truth is on disk
            log.warning("catalog refused", error=str(error))
            raise Unavailable("the catalog cannot be read", away="database") from error

    def _asked(self, asking: asyncio.Task[Row | None]) -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            asking.exception()  # looked at: who asked may have gone

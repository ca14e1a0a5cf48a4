"""The catalog's rows as upkeep reads and corrects them. Raises Unavailable when PostgreSQL is away or refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.catalog.find import Row, find_files
from artstore.catalog.write import Entry, forget, note
from artstore.contracts.events import FileChanged
from artstore.database import Database
from artstore.errors import Unavailable
from artstore.logs import get_logger
from artstore.outbox import Outbox

log = get_logger("element.upkeep")

_AVAILABLE = text(
    """
    SELECT file_id::text FROM files
    WHERE file_id = ANY(CAST(:file_ids AS uuid[])) AND state = 'available' AND storage_element_id = :element_id
    """
)
_ANY_AVAILABLE = text(
    "SELECT EXISTS (SELECT FROM files WHERE storage_element_id = :element_id AND state = 'available')"
)
_SAGAS = text(
    "SELECT saga_id::text, state, storage_element_id FROM sagas WHERE saga_id = ANY(CAST(:saga_ids AS uuid[]))"
)
_PAGE = text(
    """
    SELECT file_id::text, revision FROM files
    WHERE storage_element_id = :element_id AND file_id > CAST(:after AS uuid) ORDER BY file_id LIMIT :page
    """
)
_EXPIRED = text(
    """
    SELECT file_id::text FROM files
    WHERE storage_element_id = :element_id AND expires_at <= :now AND state = 'available'
    ORDER BY expires_at LIMIT :page
    """
)
FIRST_ID = "00000000-0000-0000-0000-000000000000"


@dataclass(slots=True)
class Corrections:
    """One transaction's worth."""

    gone: list[FileChanged] = field(default_factory=list)
    """Rows without a file."""
    replaced: list[FileChanged] = field(default_factory=list)
    """Rows of a higher revision than the disk has: taken out before the disk's is written."""
    new: list[Entry] = field(default_factory=list)
    """Files without a row: no reader holds anything else of them, so nobody is told."""
    changed: list[Entry] = field(default_factory=list)

    @property
    def number(self) -> int:
        return len(self.gone) + len(self.new) + len(self.changed)


class Rows:
    def __init__(self, database: Database, outbox: Outbox, element_id: str) -> None:
        self._database, self._outbox, self.element_id = database, outbox, element_id

    async def find(self, file_ids: Sequence[str]) -> dict[str, Row]:
        async with self._begin() as connection:
            return await find_files(connection, file_ids)

    async def find_available(self, file_ids: Sequence[str]) -> set[str]:
        """Those that this element's files are known by to all."""
        async with self._begin() as connection:
            values = {"file_ids": list(file_ids), "element_id": self.element_id}
            return {row[0] for row in await connection.execute(_AVAILABLE, values)}

    async def any_available(self) -> bool:
        async with self._begin() as connection:
            return bool(await connection.scalar(_ANY_AVAILABLE, {"element_id": self.element_id}))

    async def find_sagas(self, saga_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """State and element of those that admin knows."""
        if not saga_ids:
            return {}
        async with self._begin() as connection:
            return {row[0]: (row[1], row[2]) for row in await connection.execute(_SAGAS, {"saga_ids": list(saga_ids)})}

    async def page(self, after: str, limit: int) -> list[tuple[str, int]]:
        """Ids and revisions of this element's rows, in the order of their ids."""
        async with self._begin() as connection:
            values = {"element_id": self.element_id, "after": after, "page": limit}
            return [(row[0], row[1]) for row in await connection.execute(_PAGE, values)]

    async def find_expired(self, now: datetime, limit: int) -> list[str]:
        async with self._begin() as connection:
            values = {"element_id": self.element_id, "now": now, "page": limit}
            return [row[0] for row in await connection.execute(_EXPIRED, values)]

    async def correct(self, corrections: Corrections) -> None:
        if not corrections.number:
            return
        async with self._begin() as connection:
            await forget(connection, [*corrections.gone, *corrections.replaced])
            await note(connection, corrections.new, tell=False)
            await note(connection, corrections.changed)
        self._outbox.kick()

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._database.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            log.error("the catalog refuses", error=str(error)[:500])
            raise Unavailable("the catalog refuses") from error

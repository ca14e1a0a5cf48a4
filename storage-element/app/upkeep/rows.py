"""Catalog rows as upkeep reads and corrects them. Raises Unavailable when PostgreSQL does not answer or
refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from asyncpg import PostgresError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.catalog.find import FileRow, find_files
from artstore.catalog.write import FileEntry, delete_files, row_fault, upsert_files
from artstore.clock import Clock, rfc3339
from artstore.contracts.elements import RegistryState
from artstore.contracts.events import FileChanged
from artstore.database import Database
from artstore.errors import InvalidFields, Unavailable
from artstore.logs import get_logger
from artstore.outbox import Outbox

log = get_logger("element.upkeep")

_AVAILABLE = """
    SELECT generation, generation_started_at, version, (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint AS wal_lsn,
        pg_postmaster_start_time()::text AS run,
        ARRAY(SELECT found.file_id FROM unnest($1::uuid[]) AS wanted(file_id) CROSS JOIN LATERAL (
            SELECT file_id::text, state, storage_element_id FROM files WHERE files.file_id = wanted.file_id LIMIT 1
        ) AS found WHERE found.state = 'available' AND found.storage_element_id = $2) AS available
    FROM registry
    """
# Not `saga_id = ANY(:saga_ids)`: see artstore.catalog.find.
_SAGAS = text(
    """SELECT found.* FROM unnest(CAST(:saga_ids AS uuid[])) AS wanted(saga_id) CROSS JOIN LATERAL (
        SELECT saga_id::text, state, storage_element_id FROM sagas WHERE sagas.saga_id = wanted.saga_id LIMIT 1) AS found"""
)
# `ORDER BY file_id` would sort by the text of the output column, and so all rows for each page.
_PAGE = text(
    """
    SELECT file_id::text FROM files
    WHERE storage_element_id = :element_id AND file_id > CAST(:after AS uuid) ORDER BY files.file_id LIMIT :page
    """
)
_EXPIRED = text(
    """
    SELECT expires_at, file_id::text FROM files
    WHERE storage_element_id = :element_id AND expires_at <= :now AND state = 'available'
      AND (expires_at, file_id) > (:after, CAST(:after_id AS uuid))
    ORDER BY expires_at, files.file_id LIMIT :page
    """
)
_NOW = text("SELECT clock_timestamp()")
FIRST_ID = "00000000-0000-0000-0000-000000000000"

Due = tuple[datetime, str]
"""When a file expires, and its id."""
FIRST_DUE: Due = (datetime(1, 1, 1, tzinfo=UTC), FIRST_ID)


@dataclass(frozen=True, slots=True)
class CatalogState:
    """The database at one moment, and which of the files asked about are available."""

    available: set[str]
    state: RegistryState
    wal_lsn: int
    run: str
    """Start time of the server process: changes when PostgreSQL is restarted."""


@dataclass(slots=True)
class Corrections:
    """The corrections of one transaction."""

    gone: list[FileChanged] = field(default_factory=list)
    """Rows without a file."""
    replaced: list[FileChanged] = field(default_factory=list)
    """Rows of a higher revision than the disk has: removed before the disk's revision is written."""
    new: list[FileEntry] = field(default_factory=list)
    """Files without a row: no reader has cached anything of them, so no event is sent."""
    changed: list[FileEntry] = field(default_factory=list)

    def remove(self, row: FileRow, element_id: str) -> None:
        self.gone.append(_removal(row, element_id))

    def replace(self, row: FileRow, entry: FileEntry, element_id: str) -> None:
        """Write `entry` although its revision is lower than the row's."""
        self.replaced.append(_removal(row, element_id))
        self.changed.append(entry)

    @property
    def number(self) -> int:
        return len(self.gone) + len(self.new) + len(self.changed)

    @property
    def file_ids(self) -> list[str]:
        return [event.file_id for event in self.gone] + [
            entry.attributes.file_id for entry in (*self.new, *self.changed)
        ]

    def halves(self) -> tuple[Corrections, Corrections]:
        """Split by file: the removal and the replacement of one row stay together."""
        first = set(self.file_ids[: self.number // 2])
        parts = Corrections(), Corrections()
        for event in self.gone:
            parts[event.file_id not in first].gone.append(event)
        for event in self.replaced:
            parts[event.file_id not in first].replaced.append(event)
        for entry in self.new:
            parts[entry.attributes.file_id not in first].new.append(entry)
        for entry in self.changed:
            parts[entry.attributes.file_id not in first].changed.append(entry)
        return parts


def _removal(row: FileRow, element_id: str) -> FileChanged:
    return FileChanged(file_id=row.file_id, revision=row.revision, change="delete", storage_element_id=element_id)


class _RowsRefused(ValueError):
    """PostgreSQL refuses at least one row of the group."""


class Rows:
    """`require_confirmed` raises Unavailable while the root may be a copy or is missing: then rows must not
    follow from it."""

    def __init__(
        self, database: Database, outbox: Outbox, element_id: str, require_confirmed: Callable[[], None]
    ) -> None:
        self._database, self._outbox, self.element_id = database, outbox, element_id
        self._require_confirmed = require_confirmed

    async def find(self, file_ids: Sequence[str]) -> dict[str, FileRow]:
        async with self._begin() as connection:
            return await find_files(connection, file_ids)

    async def query(self, file_ids: Sequence[str]) -> CatalogState:
        """The files of `file_ids` that this element has and that are available, and the state of the
        database."""
        self._require_confirmed()
        try:
            (row,) = await self._database.fetch(_AVAILABLE, list(file_ids), self.element_id)
        except PostgresError as error:
            raise _refused(error) from error
        state = RegistryState(
            generation=row["generation"],
            generation_started_at=rfc3339(row["generation_started_at"]),
            version=row["version"],
        )
        return CatalogState(set(row["available"]), state, row["wal_lsn"], row["run"])

    async def find_sagas(self, saga_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """State and element of the sagas that admin knows."""
        if not saga_ids:
            return {}
        async with self._begin() as connection:
            return {row[0]: (row[1], row[2]) for row in await connection.execute(_SAGAS, {"saga_ids": list(saga_ids)})}

    async def page(self, after: str, limit: int) -> list[str]:
        """Ids of this element's rows, in their order."""
        async with self._begin() as connection:
            values = {"element_id": self.element_id, "after": after, "page": limit}
            return list((await connection.execute(_PAGE, values)).scalars())

    async def agreed_now(self, clock: Clock) -> datetime:
        """The earlier of this element's time and PostgreSQL's: a file due by it is due by both clocks."""
        async with self._begin() as connection:
            theirs: datetime = (await connection.execute(_NOW)).scalar_one()
        return min(clock.now(), theirs)

    async def find_expired(self, now: datetime, after: Due, limit: int) -> list[Due]:
        """Expired files after `after`, the longest expired first."""
        async with self._begin() as connection:
            values = {"element_id": self.element_id, "now": now, "after": after[0], "after_id": after[1], "page": limit}
            return [(row[0], row[1]) for row in await connection.execute(_EXPIRED, values)]

    async def correct(self, corrections: Corrections) -> dict[str, str]:
        """Write the corrections. Returns the files whose rows PostgreSQL refuses, with the reason; all others
        are written."""
        if not corrections.number:
            return {}
        try:
            async with self._begin() as connection:
                await delete_files(connection, [*corrections.gone, *corrections.replaced])
                await upsert_files(connection, corrections.new, publish=False)
                await upsert_files(connection, corrections.changed)
        except (_RowsRefused, InvalidFields, TypeError, ValueError) as error:
            if corrections.number == 1:
                (file_id,) = corrections.file_ids
                return {file_id: row_fault(error) or str(error)}
            first, second = corrections.halves()
            return {**await self.correct(first), **await self.correct(second)}
        self._outbox.wake()
        return {}

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[AsyncConnection]:
        self._require_confirmed()
        try:
            async with self._database.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            if (fault := row_fault(error)) is not None:
                raise _RowsRefused(fault) from error
            raise _refused(error) from error


def _refused(error: Exception) -> Unavailable:
    log.error("catalog refused a query", error=str(error)[:500])
    return Unavailable("the catalog refuses the query")

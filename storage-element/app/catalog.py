"""The store's catalog over PostgreSQL: concurrent calls share one statement and one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import asyncpg
from sqlalchemy.exc import SQLAlchemyError

from artstore.catalog.find import find_file
from artstore.catalog.write import FileEntry, delete_files, row_fault, upsert_files, write_files
from artstore.contracts.events import Change, FileChanged
from artstore.contracts.files import Attributes
from artstore.database import Database
from artstore.errors import InvalidFields, Unavailable
from artstore.groups import Group
from artstore.logs import get_logger
from artstore.outbox import Outbox
from artstore.tracing import span

from .store.catalog import CatalogEntry, RowRefused

log = get_logger("element.catalog")

MAX_GROUP = 256
PARALLEL = 2
"""Concurrent transactions: one group is at the server while the next one is sent."""

Item = FileEntry | FileChanged
# Not `file_id = ANY($1)`: see artstore.catalog.find.
_AVAILABLE = """SELECT found.file_id FROM unnest($1::uuid[]) AS wanted(file_id) CROSS JOIN LATERAL (
        SELECT file_id::text, state, storage_element_id FROM files WHERE files.file_id = wanted.file_id LIMIT 1
    ) AS found WHERE found.state = 'available' AND found.storage_element_id = $2"""


class PostgresCatalog:
    """Raises Unavailable when PostgreSQL does not answer or refuses: the row is written again later, from the
    disk.

    Also while `require_confirmed` raises: a root that may be a copy, or is missing, must not change the
    catalog.
    """

    def __init__(
        self, database: Database, outbox: Outbox, element_id: str, require_confirmed: Callable[[], None]
    ) -> None:
        self._database, self._outbox, self._element_id = database, outbox, element_id
        self._require_confirmed = require_confirmed
        self._group: Group[Item, None] = Group(self._write_group, max_items=MAX_GROUP, parallel=PARALLEL)
        self._unpublished = False
        self._answers = False

    @property
    def answers(self) -> bool:
        return self._answers

    async def note(self, attributes: Attributes, *, saga_id: str | None, change: Change) -> None:
        with span("catalog.write"):
            await self._group.add(FileEntry(attributes, change, saga_id))

    async def forget(self, file_id: str, *, revision: int) -> None:
        change = FileChanged(file_id=file_id, revision=revision, change="delete", storage_element_id=self._element_id)
        with span("catalog.write"):
            await self._group.add(change)

    async def find_available(self, file_ids: Sequence[str]) -> set[str]:
        try:
            self._require_confirmed()
            rows = await self._database.fetch(_AVAILABLE, file_ids, self._element_id)
        except Unavailable:
            self._answers = False
            raise
        return {row["file_id"] for row in rows}

    async def find_entry(self, file_id: str) -> CatalogEntry | None:
        async with self._database.begin() as connection:
            row = await find_file(connection, file_id)
        if row is None or row.storage_element_id != self._element_id:
            return None
        return CatalogEntry(row.saga_id, row.available)

    def notify(self) -> None:
        if self._unpublished:
            self._unpublished = False
            self._outbox.wake()

    async def _write_group(self, items: list[Item]) -> Sequence[BaseException | None]:
        """One result per item. A group with a row that PostgreSQL refuses is halved until the row is
        alone."""
        try:
            await self._write(items)
            self._answers = True
        except Unavailable:
            self._answers = False
            raise
        except (SQLAlchemyError, asyncpg.PostgresError, InvalidFields, TypeError, ValueError) as error:
            fault = row_fault(error)
            if fault is None:
                log.error("catalog refused a transaction", error=str(error)[:500])
                return [Unavailable("the catalog refuses the transaction")] * len(items)
            if len(items) == 1:
                return [RowRefused("the catalog refuses the row", reason=fault)]
            middle = len(items) // 2
            return [*await self._write_group(items[:middle]), *await self._write_group(items[middle:])]
        return [None] * len(items)

    async def _write(self, items: list[Item]) -> None:
        """A pending row of a put need not be durable, because admin's commit contains all of it; a change must be, also
        while the element does not know yet that the upload is committed."""
        self._require_confirmed()
        entries = [item for item in items if isinstance(item, FileEntry)]
        deleted = [item for item in items if isinstance(item, FileChanged)]
        durable = bool(deleted) or any(entry.saga_id is None or entry.change != "put" for entry in entries)
        if not deleted:
            published = await write_files(self._database, entries, durable=durable)
        else:
            published = True
            async with self._database.begin() as connection:
                await upsert_files(connection, entries)
                await delete_files(connection, deleted)
        self._unpublished = self._unpublished or published

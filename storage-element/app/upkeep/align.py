"""Brings catalog rows in line with what lies on the disk, many files at once, each with its lock held.

What was seen without the locks is only a suspicion: here everything is looked at again, and no put, update or delete of
these files can come in between. The one writer of rows that rebuild and confirmation share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from uuid import UUID

import msgspec

from artstore.catalog.find import Row as CatalogRow
from artstore.catalog.write import Entry
from artstore.contracts.events import FileChanged
from artstore.contracts.files import Attributes, encode
from artstore.errors import InvalidFields

from ..store.attributes import UNREADABLE, find_in
from ..store.disk_health import FileUnreadable
from ..store.listing import read_many
from ..store.store import Store
from .aside import Found, put_aside
from .journal import Problem
from .looks import data_bytes_of
from .rows import Corrections, Rows
from .standing import InDoubt, Row, Saga, Standing, standing

AT_ONCE = 512
"""Files whose locks are held while one transaction is written: some milliseconds, only these files wait."""


class Sized(msgspec.Struct):
    """As much of attr.json as a look at the whole disk needs."""

    size_bytes: int


@dataclass(slots=True)
class Aligned:
    """What became of a group."""

    later: list[str] = field(default_factory=list)
    """Locked by an operation, or in doubt while their saga may still be committed."""
    corrected: int = 0
    put_aside: int = 0
    unreadable: set[str] = field(default_factory=set)
    """The disk did not give them now: they stay, and so do their rows."""
    refused: int = 0
    """Rows that PostgreSQL does not take: the files stay, the catalog lacks them."""


class Align:
    """`generation_started_s`: sagas that began before it are older than the catalog (Unix seconds, 0: unknown)."""

    def __init__(
        self, store: Store, rows: Rows, found: Found, lease_s: float, generation_started_s: Callable[[], float]
    ) -> None:
        self._store, self._rows, self._found, self._lease_s = store, rows, found, lease_s
        self._generation_started_s = generation_started_s

    def in_line(self, file_id: str, encoded: bytes, row: CatalogRow | None) -> bool:
        """Whether the row, as far as can be told without a lock, says what the disk says."""
        return (
            row is not None
            and row.available
            and row.attributes == encoded
            and row.storage_element_id == self._store.element_id
            and file_id not in self._store.unconfirmed
        )

    async def align(
        self, file_ids: Sequence[str], task: str, in_doubt: InDoubt, seen_bytes: Mapping[str, int | None] | None = None
    ) -> Aligned:
        """At most AT_ONCE. Raises Unavailable; then none of the group's rows was touched.

        `seen_bytes`: sizes of data as a survey saw them; those that do not fit are looked at again. None: no question.
        """
        aligned = Aligned()
        async with AsyncExitStack() as locks:
            held: list[str] = []
            for file_id in file_ids:
                if self._store.locks.is_free(file_id):
                    await locks.enter_async_context(self._store.locks.hold(file_id))  # free: does not wait
                    held.append(file_id)
                else:
                    aligned.later.append(file_id)
            whole = await self._find_whole(held, aligned, task, seen_bytes)
            readable = [file_id for file_id in held if file_id not in aligned.unreadable]
            await self._align_held(readable, whole, aligned, in_doubt, task)
        return aligned

    async def _find_whole(
        self, file_ids: list[str], aligned: Aligned, task: str, seen_bytes: Mapping[str, int | None] | None
    ) -> dict[str, Attributes]:
        """Those that are whole as far as a look can tell. What is damaged is put aside: one finding each."""
        whole: dict[str, Attributes] = {}
        encoded = await self._store.scan_in_thread(read_many, self._store, file_ids)
        for file_id, content in zip(file_ids, encoded, strict=True):
            if content is None:
                continue
            if content == UNREADABLE:
                aligned.unreadable.add(file_id)
                await self._found.note(task, file_id, "unreadable", "kept", "attr.json")
                continue
            attributes = find_in(content, file_id)
            if attributes is not None and attributes.storage_element_id != self._store.element_id:
                await self._found.note(task, file_id, "foreign", "kept", f"of {attributes.storage_element_id}")
                continue
            fits = attributes is not None and (seen_bytes is None or seen_bytes.get(file_id) == attributes.size_bytes)
            if not fits:
                attributes = await self._look_again(file_id, attributes, aligned, task)
            if attributes is not None:
                whole[file_id] = attributes
        return whole

    async def _look_again(
        self, file_id: str, attributes: Attributes | None, aligned: Aligned, task: str
    ) -> Attributes | None:
        """None, and put aside, when it is damaged also now that nobody else is at it."""
        try:
            data_bytes = await self._store.scan_in_thread(data_bytes_of, self._store, file_id)
        except FileUnreadable as error:
            aligned.unreadable.add(file_id)
            await self._found.note(task, file_id, "unreadable", "kept", error.detail)
            return None
        problem: Problem
        if attributes is None:
            problem = "attributes_damaged"
        elif data_bytes is None:
            problem = "data_missing"
        elif data_bytes != attributes.size_bytes:
            problem = "size_differs"
        else:
            return attributes
        counted_bytes = data_bytes or 0 if attributes is None else attributes.size_bytes
        await self._found.note(task, file_id, problem, await put_aside(self._store, file_id, counted_bytes))
        aligned.put_aside += 1
        return None

    async def _align_held(
        self, file_ids: list[str], whole: dict[str, Attributes], aligned: Aligned, in_doubt: InDoubt, task: str
    ) -> None:
        rows = await self._rows.find(file_ids)
        sagas = await self._sagas_of(list(whole), rows)
        corrections = Corrections()
        confirmed: list[str] = []
        for file_id in file_ids:
            row, attributes = rows.get(file_id), whole.get(file_id)
            if attributes is None:
                if row is not None and row.storage_element_id == self._store.element_id:
                    corrections.gone.append(self._gone(row))
                continue
            verdict = standing(self._row(row), sagas.get(file_id), in_doubt)
            if verdict is Standing.WAIT:
                aligned.later.append(file_id)
            elif verdict is not Standing.ELSEWHERE:
                saga_id = self._saga_id(file_id, row) if verdict is Standing.PENDING else None
                self._compare(attributes, row, saga_id, corrections)
                if saga_id is None:
                    confirmed.append(file_id)
        refused = await self._rows.correct(corrections)
        aligned.corrected += corrections.number - len(refused)
        aligned.refused += len(refused)
        for file_id, reason in refused.items():
            await self._found.note(task, file_id, "refused", "kept", reason)
        self._store.confirm(confirmed)

    async def _sagas_of(self, file_ids: list[str], rows: dict[str, CatalogRow]) -> dict[str, Saga]:
        """The sagas that may still be open."""
        wanted = {
            file_id: saga_id
            for file_id in file_ids
            if (saga_id := self._saga_id(file_id, rows.get(file_id))) is not None
        }
        known = await self._rows.find_sagas(list(wanted.values()))
        now_s = self._store.clock.unix_s()
        sagas: dict[str, Saga] = {}
        for file_id, saga_id in wanted.items():
            state, element_id = known.get(saga_id, (None, self._store.element_id))
            begun_s = _begun_s(saga_id)
            sagas[file_id] = Saga(
                state,
                element_id == self._store.element_id,
                lease_over=now_s - begun_s > self._lease_s,
                old=begun_s < self._generation_started_s(),
                compensated=saga_id in self._store.compensated,
            )
        return sagas

    def _saga_id(self, file_id: str, row: CatalogRow | None) -> str | None:
        unconfirmed = self._store.unconfirmed.get(file_id)
        if unconfirmed is not None:
            return unconfirmed.saga_id
        return row.saga_id if row is not None and not row.available else None

    def _row(self, row: CatalogRow | None) -> Row | None:
        return None if row is None else Row(row.available, row.storage_element_id == self._store.element_id)

    def _compare(
        self, attributes: Attributes, row: CatalogRow | None, saga_id: str | None, corrections: Corrections
    ) -> None:
        entry = Entry(attributes, "put" if row is None else "update", saga_id)
        if row is None:
            corrections.new.append(entry)
        elif row.storage_element_id != self._store.element_id and row.revision >= attributes.revision:
            return  # the other element's file is as new; one of the two is a leftover
        elif row.revision > attributes.revision:
            corrections.replaced.append(self._gone(row))
            corrections.changed.append(entry)
        elif row.attributes != _encoded(attributes) or (saga_id is None and not row.available):
            corrections.changed.append(entry)

    def _gone(self, row: CatalogRow) -> FileChanged:
        return FileChanged(
            file_id=row.file_id, revision=row.revision, change="delete", storage_element_id=self._store.element_id
        )


def _encoded(attributes: Attributes) -> bytes | None:
    """None for attributes that were read and cannot be written again: no row can hold them either."""
    try:
        return encode(attributes)
    except InvalidFields:
        return None


def _begun_s(saga_id: str) -> float:
    """When the saga began, by its UUIDv7: true also after a restart. An id of another kind counts as begun long ago."""
    saga = UUID(saga_id)
    return (saga.int >> 80) / 1000 if saga.version == 7 else 0.0

"""Reconcile catalog rows with the files on the disk, many at once, each with its lock held.

A difference seen without locks is only a suspicion. Here every file is read again under its lock, so that no
put, update or delete of it can come in between. Rebuild, confirmation and scrub write rows through this file
only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from uuid import UUID

import msgspec

from artstore.catalog.find import FileRow
from artstore.catalog.write import FileEntry
from artstore.contracts.files import Attributes, encode
from artstore.errors import InvalidFields

from ..store.attributes import UNREADABLE, find_in
from ..store.disk_health import FileUnreadable
from ..store.get import find_many_attributes, find_size
from ..store.store import Store
from .journal import Problem
from .quarantine import FindingLog, quarantine_file
from .rows import Corrections, Rows
from .visibility import InDoubt, KnownRow, KnownSaga, Visibility, visibility

GROUP = 512
"""Files whose locks are held while one transaction is written: for some milliseconds, and only these files
wait."""


class SizeOnly(msgspec.Struct):
    """The part of attr.json that a comparison with a survey needs."""

    size_bytes: int


@dataclass(slots=True)
class Reconciled:
    """The outcome for one group of files."""

    later: list[str] = field(default_factory=list)
    """Locked by an operation, or undecided while their saga may still be committed."""
    corrected: int = 0
    quarantined: int = 0
    unreadable: set[str] = field(default_factory=set)
    """The disk could not read them: the files stay, and so do their rows."""
    refused: int = 0
    """PostgreSQL refused their rows: the files stay, without a row."""


class Reconciler:
    """`generation_started_s`: sagas that began before it are older than the catalog (Unix seconds, 0:
    unknown)."""

    def __init__(
        self,
        store: Store,
        rows: Rows,
        findings: FindingLog,
        lease_s: float,
        generation_started_s: Callable[[], float],
    ) -> None:
        self._store, self._rows, self._findings, self._lease_s = store, rows, findings, lease_s
        self._generation_started_s = generation_started_s

    def matches(self, file_id: str, encoded: bytes, row: FileRow | None) -> bool:
        """True if the row says what the disk says, as far as this can be known without a lock."""
        return (
            row is not None
            and row.available
            and row.attributes == encoded
            and row.storage_element_id == self._store.element_id
            and file_id not in self._store.unconfirmed
        )

    async def reconcile(
        self,
        file_ids: Sequence[str],
        task: str,
        in_doubt: InDoubt,
        surveyed_bytes: Mapping[str, int | None] | None = None,
    ) -> Reconciled:
        """At most GROUP files. Raises Unavailable; then no row of the group was changed.

        `surveyed_bytes` are the sizes of data that a survey found: a size that differs from the attributes is
        checked again. None: sizes are not compared.
        """
        outcome = Reconciled()
        async with AsyncExitStack() as locks:
            held: list[str] = []
            for file_id in file_ids:
                if self._store.locks.is_free(file_id):
                    await locks.enter_async_context(self._store.locks.hold(file_id))  # free, so this does not wait
                    held.append(file_id)
                else:
                    outcome.later.append(file_id)
            sound = await self._find_sound(held, outcome, task, surveyed_bytes)
            readable = [file_id for file_id in held if file_id not in outcome.unreadable]
            await self._correct_rows(readable, sound, outcome, in_doubt, task)
        return outcome

    async def _find_sound(
        self, file_ids: list[str], outcome: Reconciled, task: str, surveyed_bytes: Mapping[str, int | None] | None
    ) -> dict[str, Attributes]:
        """Attributes of the files without visible damage. Damaged files are quarantined and recorded as
        findings."""
        sound: dict[str, Attributes] = {}
        encoded = await self._store.scan_in_thread(find_many_attributes, self._store, file_ids)
        for file_id, content in zip(file_ids, encoded, strict=True):
            if content is None:
                continue
            if content == UNREADABLE:
                outcome.unreadable.add(file_id)
                await self._findings.record(task, file_id, "unreadable", "kept", "attr.json")
                continue
            attributes = find_in(content, file_id)
            if attributes is not None and attributes.storage_element_id != self._store.element_id:
                await self._findings.record(task, file_id, "foreign", "kept", f"of {attributes.storage_element_id}")
                continue
            size_matches = attributes is not None and (
                surveyed_bytes is None or surveyed_bytes.get(file_id) == attributes.size_bytes
            )
            if not size_matches:
                attributes = await self._check_again(file_id, attributes, outcome, task)
            if attributes is not None:
                sound[file_id] = attributes
        return sound

    async def _check_again(
        self, file_id: str, attributes: Attributes | None, outcome: Reconciled, task: str
    ) -> Attributes | None:
        """None when the file is damaged or unreadable also under its lock; a damaged one is quarantined."""
        try:
            data_bytes = await self._store.scan_in_thread(find_size, self._store, file_id)
        except FileUnreadable as error:
            outcome.unreadable.add(file_id)
            await self._findings.record(task, file_id, "unreadable", "kept", error.detail)
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
        action = await quarantine_file(self._store, file_id, counted_bytes)
        await self._findings.record(task, file_id, problem, action)
        outcome.quarantined += 1
        return None

    async def _correct_rows(
        self, file_ids: list[str], sound: dict[str, Attributes], outcome: Reconciled, in_doubt: InDoubt, task: str
    ) -> None:
        rows = await self._rows.find(file_ids)
        sagas = await self._find_open_sagas(list(sound), rows)
        corrections = Corrections()
        confirmed: list[str] = []
        for file_id in file_ids:
            row, attributes = rows.get(file_id), sound.get(file_id)
            if attributes is None:
                if row is not None and row.storage_element_id == self._store.element_id:
                    corrections.remove(row, self._store.element_id)
                continue
            decision = visibility(self._known_row(row), sagas.get(file_id), in_doubt)
            if decision is Visibility.WAIT:
                outcome.later.append(file_id)
            elif decision is not Visibility.ELSEWHERE:
                saga_id = self._saga_id(file_id, row) if decision is Visibility.PENDING else None
                self._correct_row(attributes, row, saga_id, corrections)
                if saga_id is None:
                    confirmed.append(file_id)
        refused = await self._rows.correct(corrections)
        outcome.corrected += corrections.number - len(refused)
        outcome.refused += len(refused)
        for file_id, reason in refused.items():
            await self._findings.record(task, file_id, "refused", "kept", reason)
        self._store.confirm(confirmed)

    async def _find_open_sagas(self, file_ids: list[str], rows: dict[str, FileRow]) -> dict[str, KnownSaga]:
        """Per file the saga that may still be open."""
        wanted = {
            file_id: saga_id
            for file_id in file_ids
            if (saga_id := self._saga_id(file_id, rows.get(file_id))) is not None
        }
        known = await self._rows.find_sagas(list(wanted.values()))
        now_s = self._store.clock.unix_s()
        sagas: dict[str, KnownSaga] = {}
        for file_id, saga_id in wanted.items():
            state, element_id = known.get(saga_id, (None, self._store.element_id))
            begun_s = _begun_s(saga_id)
            sagas[file_id] = KnownSaga(
                state,
                element_id == self._store.element_id,
                lease_over=now_s - begun_s > self._lease_s,
                old=begun_s < self._generation_started_s(),
                compensated=saga_id in self._store.compensated,
            )
        return sagas

    def _saga_id(self, file_id: str, row: FileRow | None) -> str | None:
        unconfirmed = self._store.unconfirmed.get(file_id)
        if unconfirmed is not None:
            return unconfirmed.saga_id
        return row.saga_id if row is not None and not row.available else None

    def _known_row(self, row: FileRow | None) -> KnownRow | None:
        return None if row is None else KnownRow(row.available, row.storage_element_id == self._store.element_id)

    def _correct_row(
        self, attributes: Attributes, row: FileRow | None, saga_id: str | None, corrections: Corrections
    ) -> None:
        entry = FileEntry(attributes, "put" if row is None else "update", saga_id)
        if row is None:
            corrections.new.append(entry)
        elif row.storage_element_id != self._store.element_id and row.revision >= attributes.revision:
            return  # the other element's file is at least as new; one of the two is a leftover
        elif row.revision > attributes.revision:
            corrections.replace(row, entry, self._store.element_id)
        elif row.attributes != _encoded(attributes) or (saga_id is None and not row.available):
            corrections.changed.append(entry)


def _encoded(attributes: Attributes) -> bytes | None:
    """None for attributes that can be read but not encoded again: no row can hold them either."""
    try:
        return encode(attributes)
    except InvalidFields:
        return None


def _begun_s(saga_id: str) -> float:
    """When the saga began, by its UUIDv7, so also after a restart. An id of another version counts as begun
    long ago."""
    saga = UUID(saga_id)
    return (saga.int >> 80) / 1000 if saga.version == 7 else 0.0

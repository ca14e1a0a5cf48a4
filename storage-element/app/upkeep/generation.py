"""The generation of the catalog that this element knows, and whether the catalog has been reconciled with its
disk (docs/decisions/0008).

Saved on disk as `upkeep/catalog.json`. A higher generation means that the catalog went back in time: the
rebuild that follows reconciles it with the disk, and until then nothing is undone on this element.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import islice

import msgspec

from artstore.clock import parse_rfc3339
from artstore.contracts.elements import CatalogMemory, RegistryState
from artstore.errors import Unavailable
from artstore.logs import get_logger

from ..store.attributes import find_in
from ..store.disk_health import FileUnreadable
from ..store.get import find_many_attributes, find_size
from ..store.store import Store
from .journal import Journal
from .rows import Rows

log = get_logger("element.upkeep")

TASK = "catalog"
MAX_WITNESSES = 16
"""Files confirmed last. A database that lost any commit this element has confirmed has lost the last ones
too."""


class Memory(msgspec.Struct, kw_only=True):
    """Saved on disk. `version` belongs to the last answered report and to `version_generation`."""

    generation: int = 0
    generation_started_at: str = ""
    reconciled: int = 0
    version: int = 0
    version_generation: int = 0
    wal_lsn: int = 0
    witnesses: list[str] = []


class CatalogGeneration:
    """One per process. `changed` is set when there may be something to reconcile."""

    def __init__(self, store: Store, rows: Rows, journal: Journal) -> None:
        self._store, self._rows, self._journal = store, rows, journal
        self._memory = Memory()
        self._began_empty = False
        self._saving = asyncio.Lock()
        self._run = ""
        self.doubt = ""
        """Why the catalog cannot be the one this element knew; empty: no reason."""
        self.changed = asyncio.Event()

    async def load(self) -> None:
        saved = await asyncio.to_thread(self._journal.find, TASK, Memory)
        self._memory = Memory() if saved is None else saved
        try:
            self._began_empty = not await asyncio.to_thread(self._some_files, 1)
        except (Unavailable, OSError):
            self._began_empty = False

    @property
    def number(self) -> int:
        return self._memory.generation

    @property
    def started_s(self) -> float:
        """When the present generation started, Unix seconds by PostgreSQL's clock. 0: unknown."""
        text = self._memory.generation_started_at
        return parse_rfc3339(text).timestamp() if text else 0.0

    @property
    def is_reconciled(self) -> bool:
        """True if catalog and disk agree as far as is known: files that the catalog does not know may be
        undone."""
        return self._memory.generation > 0 and not self.behind and not self.doubt

    @property
    def behind(self) -> bool:
        return self._memory.reconciled < self._memory.generation

    @property
    def news(self) -> tuple[str, int, str]:
        """Admin is informed at once when this changes: PostgreSQL's start time, the generation, the doubt."""
        return self._run, self._memory.generation, self.doubt

    def report(self) -> CatalogMemory:
        memory = self._memory
        return CatalogMemory(
            generation=memory.generation,
            reconciled=memory.reconciled,
            version=memory.version,
            version_generation=memory.version_generation,
            doubt=self.doubt,
            empty=self._is_empty(),
        )

    async def update(self, state: RegistryState, *, answered: bool) -> None:
        """`answered`: the state is the answer to a report, which acknowledges the version; else it was read
        from the database."""
        memory = self._memory
        if state.generation > memory.generation:
            say = log.warning if memory.generation else log.info
            say("new generation of the catalog", generation=state.generation, before=memory.generation)
            if self._is_empty():
                memory.reconciled = state.generation
            memory.generation, memory.generation_started_at = state.generation, state.generation_started_at
            memory.wal_lsn, memory.witnesses = 0, []
            self.doubt = ""
            self.changed.set()
        if answered and (state.generation, state.version) > (memory.version_generation, memory.version):
            memory.version_generation, memory.version = state.generation, state.version
        await self._save()

    async def query(self, file_ids: Iterable[str]) -> set[str]:
        """The files that the catalog has as available. Also detects whether the catalog went back in time."""
        memory = self._memory
        witnesses = list(memory.witnesses)
        seen = await self._rows.query([*file_ids, *witnesses])
        self._run = seen.run
        if seen.state.generation > memory.generation:
            await self.update(seen.state, answered=False)
        elif memory.generation == seen.state.generation:
            self.doubt = self.doubt or await self._find_doubt(seen.wal_lsn, witnesses, seen.available)
            memory.wal_lsn = max(memory.wal_lsn, seen.wal_lsn)
        else:
            self.doubt = "the database is of an earlier generation"
        return seen.available

    async def add_witnesses(self, file_ids: Iterable[str]) -> None:
        """Remember the last files that were seen available in the catalog."""
        if new := list(file_ids):
            self._memory.witnesses = [*self._memory.witnesses, *new][-MAX_WITNESSES:]
            await self._save()

    async def set_reconciled(self, generation: int) -> None:
        """The catalog of this generation has every file of the disk."""
        self._memory.reconciled = max(self._memory.reconciled, generation)
        if not self._memory.witnesses:
            self._memory.witnesses = await self._sample()
        await self._save()

    async def _sample(self) -> list[str]:
        """Some files that the catalog has, so that a catalog lost before the next upload is detected too."""
        try:
            some = await asyncio.to_thread(self._some_files, MAX_WITNESSES)
            return sorted((await self._rows.query(some)).available)
        except (Unavailable, OSError):
            return []

    async def _find_doubt(self, wal_lsn: int, witnesses: list[str], available: set[str]) -> str:
        if wal_lsn < self._memory.wal_lsn:
            return "the database's log ends before a position that it had reached"
        missing = [file_id for file_id in witnesses if file_id not in available]
        if not missing:
            return ""
        # Read after the catalog was queried: a file that is deleted meanwhile leaves the disk before its row
        # is removed.
        sound = await self._store.scan_in_thread(_find_sound, self._store, missing)
        for file_id in missing:
            if file_id in sound and file_id not in self._store.unconfirmed:
                return f"the catalog has lost the file {file_id}"
        self._memory.witnesses = [file_id for file_id in self._memory.witnesses if file_id not in missing]
        return ""

    def _some_files(self, number: int) -> list[str]:
        return list(islice(self._store.files.walk(), number))

    def _is_empty(self) -> bool:
        """Files put before the first generation was known are in that generation's catalog."""
        return self._began_empty and (self._memory.generation == 0 or self._store.usage.files == 0)

    async def _save(self) -> None:
        """Durable when it returns, except on a failed disk."""
        async with self._saving:
            try:
                await asyncio.to_thread(self._journal.save, TASK, self._memory)
            except OSError as error:
                log.error("state of the catalog not saved", error=str(error))


def _find_sound(store: Store, file_ids: Sequence[str]) -> set[str]:
    """Files that a rebuild gives a row: damaged files, files of another element, and old copies of files that have
    moved there, are without one on purpose. Blocks."""
    sound = set()
    for file_id, content in zip(file_ids, find_many_attributes(store, file_ids), strict=True):
        attributes = None if content is None else find_in(content, file_id)
        if attributes is None or attributes.storage_element_id != store.element_id or attributes.moving_to:
            continue
        try:
            if find_size(store, file_id) == attributes.size_bytes:
                sound.add(file_id)
        except FileUnreadable:
            pass
    return sound

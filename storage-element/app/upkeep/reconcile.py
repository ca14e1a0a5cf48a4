"""What this element remembers of the catalog, and whether the catalog has followed its disk (docs/decisions/0008).

Kept on disk as `upkeep/catalog.json`. A higher generation heard of means that the catalog went back in time: the rebuild that
follows brings it in line with the disk, and until then nothing is undone on this element.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice

import msgspec

from artstore.clock import parse_rfc3339
from artstore.contracts.elements import CatalogMemory, RegistryState
from artstore.errors import Unavailable
from artstore.logs import get_logger

from ..store.store import Store
from .journal import Journal
from .looks import find_whole
from .rows import Rows

log = get_logger("element.upkeep")

TASK = "catalog"
MAX_WITNESSES = 16
"""Files confirmed last. A database that lost any commit this element has confirmed has lost the last ones too."""


class Memory(msgspec.Struct, kw_only=True):
    """On disk. `version` is of the last answered report and of `version_generation`."""

    generation: int = 0
    generation_started_at: str = ""
    reconciled: int = 0
    version: int = 0
    version_generation: int = 0
    wal_lsn: int = 0
    witnesses: list[str] = []


class Reconciliation:
    """One per process. `changed` is set when there may be something to reconcile."""

    def __init__(self, store: Store, rows: Rows, journal: Journal) -> None:
        self._store, self._rows, self._journal = store, rows, journal
        self._memory = Memory()
        self._began_empty = False
        self._keeping = asyncio.Lock()
        self._run = ""
        self.doubt = ""
        """Why the catalog cannot be the one this element knew; empty: no reason."""
        self.changed = asyncio.Event()

    async def load(self) -> None:
        kept = await asyncio.to_thread(self._journal.find, TASK, Memory)
        self._memory = Memory() if kept is None else kept
        try:
            self._began_empty = not await asyncio.to_thread(self._some_files, 1)
        except (Unavailable, OSError):
            self._began_empty = False

    @property
    def generation(self) -> int:
        return self._memory.generation

    @property
    def started_s(self) -> float:
        """When the present generation started, Unix seconds by PostgreSQL's clock. 0: unknown."""
        text = self._memory.generation_started_at
        return parse_rfc3339(text).timestamp() if text else 0.0

    @property
    def settled(self) -> bool:
        """Whether catalog and disk agree, as far as is known: what the catalog does not know may be undone."""
        return self._memory.generation > 0 and not self.behind and not self.doubt

    @property
    def behind(self) -> bool:
        return self._memory.reconciled < self._memory.generation

    @property
    def news(self) -> tuple[str, int, str]:
        """What admin should hear at once when it changes: another server process, a generation, a doubt."""
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

    async def hear(self, state: RegistryState, *, answered: bool) -> None:
        """`answered`: in the answer to a report, which acknowledges the version; else only read in the database."""
        memory = self._memory
        if state.generation > memory.generation:
            tell = log.warning if memory.generation else log.info
            tell("generation of the catalog", generation=state.generation, before=memory.generation)
            if self._is_empty():
                memory.reconciled = state.generation
            memory.generation, memory.generation_started_at = state.generation, state.generation_started_at
            memory.wal_lsn, memory.witnesses = 0, []
            self.doubt = ""
            self.changed.set()
        if answered and (state.generation, state.version) > (memory.version_generation, memory.version):
            memory.version_generation, memory.version = state.generation, state.version
        await self._keep()

    async def look(self, watched: Iterable[str]) -> set[str]:
        """Those of the files that the catalog has as available. Finds out on the way whether the catalog went back."""
        memory = self._memory
        witnesses = list(memory.witnesses)
        seen = await self._rows.look([*watched, *witnesses])
        self._run = seen.run
        if seen.state.generation > memory.generation:
            await self.hear(seen.state, answered=False)
        elif memory.generation == seen.state.generation:
            self.doubt = self.doubt or await self._find_doubt(seen.wal_lsn, witnesses, seen.available)
            memory.wal_lsn = max(memory.wal_lsn, seen.wal_lsn)
        else:
            self.doubt = "the database is of an earlier generation"
        return seen.available

    async def confirmed(self, file_ids: Iterable[str]) -> None:
        """Seen available in the catalog: remembered, the last of them, as witnesses."""
        if new := list(file_ids):
            self._memory.witnesses = [*self._memory.witnesses, *new][-MAX_WITNESSES:]
            await self._keep()

    async def rebuilt(self, generation: int) -> None:
        """The catalog of this generation has all that the disk has."""
        self._memory.reconciled = max(self._memory.reconciled, generation)
        if not self._memory.witnesses:
            self._memory.witnesses = await self._sample()
        await self._keep()

    async def _sample(self) -> list[str]:
        """Some files that the catalog has, so that a catalog lost before the next upload is noticed too."""
        try:
            some = await asyncio.to_thread(self._some_files, MAX_WITNESSES)
            return sorted((await self._rows.look(some)).available)
        except (Unavailable, OSError):
            return []

    async def _find_doubt(self, wal_lsn: int, witnesses: list[str], available: set[str]) -> str:
        if wal_lsn < self._memory.wal_lsn:
            return "the database's log ends before a position that it had reached"
        missing = [file_id for file_id in witnesses if file_id not in available]
        if not missing:
            return ""
        # Asked after the catalog was: a file deleted meanwhile is gone from the disk before its row goes.
        whole = await self._store.scan_in_thread(find_whole, self._store, missing)
        for file_id in missing:
            if file_id in whole and file_id not in self._store.unconfirmed:
                return f"the catalog has lost the file {file_id}"
        self._memory.witnesses = [file_id for file_id in self._memory.witnesses if file_id not in missing]
        return ""

    def _some_files(self, number: int) -> list[str]:
        return list(islice(self._store.files.walk(), number))

    def _is_empty(self) -> bool:
        """What it has put before it heard of its first generation went into that generation's catalog."""
        return self._began_empty and (self._memory.generation == 0 or self._store.usage.files == 0)

    async def _keep(self) -> None:
        """Durable when it returns, but on a disk that has failed."""
        async with self._keeping:
            try:
                await asyncio.to_thread(self._journal.keep, TASK, self._memory)
            except OSError as error:
                log.error("what is known of the catalog is not kept", error=str(error))

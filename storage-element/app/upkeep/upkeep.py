"""The schedule of all upkeep of one element. At most one rebuild, one scrub and one orphan sweep run at a
time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from artstore.clock import parse_rfc3339
from artstore.errors import Unavailable
from artstore.logs import get_logger
from artstore.modes import ALLOWED, Operation
from artstore.tasks import Tasks
from artstore.tracing import long_work

from ..store.store import Store
from .confirm import Confirm
from .expire import expire
from .generation import CatalogGeneration
from .journal import Journal
from .orphans import OrphanState, OrphanSweep
from .quarantine import FindingLog, count_quarantined
from .rebuild import TASK as REBUILD
from .rebuild import Rebuild, RebuildState
from .reconcile import Reconciler
from .rows import Rows
from .scrub import TASK as SCRUB
from .scrub import Scrub, ScrubState
from .usage import recount

log = get_logger("element.upkeep")

CONFIRM_EVERY_S = 2.0
EXPIRE_EVERY_S = 60.0
UNAVAILABLE_PAUSE_S = 30.0
SWEEP_EVERY_S = 6 * 3600.0
CHECK_SCRUB_EVERY_S = 3600.0
MAX_SUSPECTS = 64
"""Files that are read again at a time. A further one is found at its next download, or by the scrub."""


@dataclass(frozen=True, slots=True)
class UpkeepSettings:
    lease_s: float
    verify_bytes_per_s: int
    verify_every_s: float
    """0: only on request."""
    sweep_grace_s: float
    sweep_dry_run: bool


class Upkeep:
    """`allowed` returns the operations that the element's mode allows now. `announce` reports to admin."""

    def __init__(
        self,
        store: Store,
        rows: Rows,
        generation: CatalogGeneration,
        settings: UpkeepSettings,
        tasks: Tasks,
        allowed: Callable[[], frozenset[Operation]],
        announce: Callable[[], Awaitable[None]],
    ) -> None:
        self._store, self._rows, self._settings, self._tasks, self._allowed = store, rows, settings, tasks, allowed
        self._journal = Journal(store.files.paths)
        self.findings = FindingLog(store, self._journal)
        self.generation, self._announce = generation, announce
        self._reconciler = Reconciler(store, rows, self.findings, settings.lease_s, lambda: generation.started_s)
        self.confirm = Confirm(store, generation, self._reconciler, settings.lease_s, announce)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._suspects: set[str] = set()
        self.begun = False
        """`begin` has completed."""
        self.rebuild: RebuildState | None = None
        self.scrub: ScrubState | None = None
        self.sweep: OrphanState | None = None

    async def begin(self) -> None:
        """Resume the tasks that the last process left unfinished, and start the periodic ones."""
        self.rebuild = await asyncio.to_thread(self._journal.find, REBUILD, RebuildState)
        self.scrub = await asyncio.to_thread(self._journal.find, SCRUB, ScrubState)
        if self.rebuild is not None and self.rebuild.finished_at is None:
            self._start(REBUILD, self._rebuild(self.rebuild))
        if self.scrub is not None and self.scrub.finished_at is None:
            self._start(SCRUB, self._scrub(self.scrub))
        if not self._store.usage.exact:
            self._start("count", _until_available(partial(recount, self._store)))
        self._tasks.start("count-quarantine", _until_available(partial(count_quarantined, self._store)))
        self._tasks.every("confirm", CONFIRM_EVERY_S, self.confirm.round)
        self.generation.changed.set()
        self._tasks.forever("reconcile", self._reconcile)
        self._tasks.every("expire", EXPIRE_EVERY_S, self._expire)
        self._tasks.start("later", self._begin_later())
        self.begun = True

    def start_rebuild(self, *, force: bool) -> RebuildState:
        """The running rebuild, or a new one. `force` removes rows even when the disk looks empty, also for a
        running rebuild."""
        if not self._runs(REBUILD) or self.rebuild is None:
            self.rebuild = RebuildState(started_at=self._store.now(), generation=self.generation.number)
            self._start(REBUILD, self._rebuild(self.rebuild))
        self.rebuild.force = self.rebuild.force or force
        return self.rebuild

    def start_scrub(self) -> ScrubState:
        """The running scrub, or a new one."""
        if not self._runs(SCRUB) or self.scrub is None:
            self.scrub = ScrubState(started_at=self._store.now())
            self._start(SCRUB, self._scrub(self.scrub))
        return self.scrub

    def suspect(self, file_id: str) -> None:
        """A reader got bytes of this file that do not match its checksum: read it again, and quarantine it if they still
        do not."""
        if file_id not in self._suspects and len(self._suspects) < MAX_SUSPECTS:
            self._suspects.add(file_id)
            self._tasks.start(f"suspect:{file_id}", self._check_suspect(file_id))

    async def _check_suspect(self, file_id: str) -> None:
        state = ScrubState(started_at=self._store.now())
        try:
            scrub = Scrub(self._store, self._reconciler, self.findings, self._journal, self._store.clock, bytes_per_s=0)
            await scrub.check_locked(state, file_id)
        finally:
            self._suspects.discard(file_id)

    def status(self) -> dict[str, Any]:
        """For GET /api/element."""
        rebuild = self.rebuild and {
            name: getattr(self.rebuild, name) for name in RebuildState.__struct_fields__ if name != "later"
        }
        return {
            "rebuild": rebuild,
            "verify": self.scrub,
            "sweep": self.sweep,
            "running": sorted(self._running),
            "findings": self.findings.counts,
            "unconfirmed_files": len(self._store.unconfirmed),
            "usage_exact": self._store.usage.exact,
            "catalog": self.generation.report(),
        }

    def _runs(self, name: str) -> bool:
        return name in self._running

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._running[name] = self._tasks.start(name, work)
        task.add_done_callback(partial(self._ended, name))

    def _ended(self, name: str, _task: asyncio.Task[None]) -> None:
        del self._running[name]

    async def _reconcile(self) -> None:
        """One round: wait for a new generation, then rebuild for it. A rebuild for an older generation is
        started again."""
        await self.generation.changed.wait()
        self.generation.changed.clear()
        if not self.generation.behind:
            return
        running = self._running.get(REBUILD)
        if running is not None and self.rebuild is not None:
            if self.rebuild.generation == self.generation.number:
                return
            running.cancel()
            await asyncio.wait({running})
        self.start_rebuild(force=False)

    async def _rebuild(self, state: RebuildState) -> None:
        self.confirm.suspended = True
        try:
            async with self._failure_recorded(REBUILD, state):
                await asyncio.to_thread(self._journal.save, REBUILD, state)
                await Rebuild(self._store, self._rows, self._reconciler, self.findings, self._journal).run(state)
                if state.phase == "done":
                    await self.generation.set_reconciled(state.generation)
                    await self._announce()
        finally:
            self.confirm.suspended = False

    async def _scrub(self, state: ScrubState) -> None:
        rate = self._settings.verify_bytes_per_s
        scrub = Scrub(self._store, self._reconciler, self.findings, self._journal, self._store.clock, rate)
        async with self._failure_recorded(SCRUB, state):
            await _until_available(partial(scrub.run, state))

    @asynccontextmanager
    async def _failure_recorded(self, name: str, state: RebuildState | ScrubState | OrphanState) -> AsyncIterator[None]:
        """A task that fails records the error in its state, so that it does not look as if it still ran."""
        try:
            with long_work(name):
                yield
        except Exception as error:  # the edge of the task: recorded, and raised again
            state.error, state.finished_at = f"{type(error).__name__}: {error}", self._store.now()
            if not isinstance(state, OrphanState):
                with suppress(OSError):
                    await asyncio.to_thread(self._journal.save, name, state)
            raise

    async def _expire(self) -> None:
        """A file is expired when both this element's clock and PostgreSQL's say so: one wrong clock deletes
        nothing."""
        if Operation.DELETE in self._allowed():
            now = await self._rows.agreed_now(self._store.clock)
            await expire(self._store, self._rows, self._allowed(), now)

    async def _begin_later(self) -> None:
        """Tasks that read the whole disk do not start in the minutes after a start of the element."""
        await asyncio.sleep(min(self._settings.sweep_grace_s, CHECK_SCRUB_EVERY_S))
        self._tasks.every("sweep", SWEEP_EVERY_S, self._sweep)
        if self._settings.verify_every_s:
            self._tasks.every("verify-when-due", CHECK_SCRUB_EVERY_S, self._scrub_when_due)

    async def _sweep(self) -> None:
        self.sweep = OrphanState(started_at=self._store.now(), dry_run=self._settings.sweep_dry_run)
        async with self._failure_recorded("sweep", self.sweep):
            await OrphanSweep(self._store, self._rows, self.findings, self._settings.sweep_grace_s).run(self.sweep)

    async def _scrub_when_due(self) -> None:
        last = self.scrub.finished_at if self.scrub is not None else None
        every, now = timedelta(seconds=self._settings.verify_every_s), self._store.clock.now()
        # A time in the future was written by a clock that was ahead, and would delay the next scrub.
        if last is None or not now - every < parse_rfc3339(last) <= now:
            self.start_scrub()


async def _until_available(work: Callable[[], Awaitable[None]]) -> None:
    """Repeat `work` until it completes: the backend may be unavailable for a while."""
    while True:
        try:
            await work()
            return
        except Unavailable as error:
            log.warning("upkeep waits for the backend", error=error.detail)
            await asyncio.sleep(UNAVAILABLE_PAUSE_S)


def allowed_in(mode_of: Callable[[], Any]) -> Callable[[], frozenset[Operation]]:
    return lambda: ALLOWED[mode_of()]

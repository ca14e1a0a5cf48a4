"""All upkeep of one element: what runs when, one rebuild, verify and sweep at a time, and how far each is."""

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

from ..store.store import Store
from .align import Align
from .aside import Found
from .confirm import Confirm
from .count import count
from .expire import expire
from .journal import Journal
from .rebuild import TASK as REBUILD
from .rebuild import Rebuild, RebuildState
from .reconcile import Reconciliation
from .rows import Rows
from .sweep import Sweep, SweepState
from .verify import TASK as VERIFY
from .verify import Verify, VerifyState

log = get_logger("element.upkeep")

CONFIRM_EVERY_S = 2.0
EXPIRE_EVERY_S = 60.0
AWAY_PAUSE_S = 30.0
SWEEP_EVERY_S = 6 * 3600.0
CHECK_VERIFY_EVERY_S = 3600.0


@dataclass(frozen=True, slots=True)
class UpkeepSettings:
    lease_s: float
    verify_bytes_per_s: int
    verify_every_s: float
    """0: only when asked to."""
    sweep_grace_s: float
    sweep_dry_run: bool


class Upkeep:
    """`allowed` says what the element's mode lets be done, at the moment it is asked. `announce` reports to admin."""

    def __init__(
        self,
        store: Store,
        rows: Rows,
        reconciliation: Reconciliation,
        settings: UpkeepSettings,
        tasks: Tasks,
        allowed: Callable[[], frozenset[Operation]],
        announce: Callable[[], Awaitable[None]],
    ) -> None:
        self._store, self._rows, self._settings, self._tasks, self._allowed = store, rows, settings, tasks, allowed
        self._journal = Journal(store.files.paths)
        self.found = Found(store, self._journal)
        self.reconciliation, self._announce = reconciliation, announce
        self._align = Align(store, rows, self.found, settings.lease_s, lambda: reconciliation.started_s)
        self.confirm = Confirm(store, reconciliation, self._align, settings.lease_s, announce)
        self._running: dict[str, asyncio.Task[None]] = {}
        self.begun = False
        """`begin` has come to its end."""
        self.rebuild: RebuildState | None = None
        self.verify: VerifyState | None = None
        self.sweep: SweepState | None = None

    async def begin(self) -> None:
        """Go on with what the last process left unfinished, and start what comes round."""
        self.rebuild = await asyncio.to_thread(self._journal.find, REBUILD, RebuildState)
        self.verify = await asyncio.to_thread(self._journal.find, VERIFY, VerifyState)
        if self.rebuild is not None and self.rebuild.finished_at is None:
            self._start(REBUILD, self._rebuild(self.rebuild))
        if self.verify is not None and self.verify.finished_at is None:
            self._start(VERIFY, self._verify(self.verify))
        if not self._store.usage.exact:
            self._start("count", _while_away(partial(count, self._store)))
        self._tasks.every("confirm", CONFIRM_EVERY_S, self.confirm.round)
        self.reconciliation.changed.set()
        self._tasks.forever("reconcile", self._reconcile)
        self._tasks.every("expire", EXPIRE_EVERY_S, self._expire)
        self._tasks.start("later", self._begin_later())
        self.begun = True

    def start_rebuild(self, *, force: bool) -> RebuildState:
        """The one that runs, or a new one. `force` also where the disk looks empty; it holds for the one that runs."""
        if not self._runs(REBUILD) or self.rebuild is None:
            self.rebuild = RebuildState(started_at=self._store.now(), generation=self.reconciliation.generation)
            self._start(REBUILD, self._rebuild(self.rebuild))
        self.rebuild.force = self.rebuild.force or force
        return self.rebuild

    def start_verify(self) -> VerifyState:
        """The one that runs, or a new one."""
        if not self._runs(VERIFY) or self.verify is None:
            self.verify = VerifyState(started_at=self._store.now())
            self._start(VERIFY, self._verify(self.verify))
        return self.verify

    def status(self) -> dict[str, Any]:
        """For GET /api/element."""
        rebuild = self.rebuild and {
            name: getattr(self.rebuild, name) for name in RebuildState.__struct_fields__ if name != "later"
        }
        return {
            "rebuild": rebuild,
            "verify": self.verify,
            "sweep": self.sweep,
            "running": sorted(self._running),
            "findings": self.found.counts,
            "unconfirmed_files": len(self._store.unconfirmed),
            "usage_exact": self._store.usage.exact,
            "catalog": self.reconciliation.report(),
        }

    def _runs(self, name: str) -> bool:
        return name in self._running

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._running[name] = self._tasks.start(name, work)
        task.add_done_callback(partial(self._ended, name))

    def _ended(self, name: str, _task: asyncio.Task[None]) -> None:
        del self._running[name]

    async def _reconcile(self) -> None:
        """One round: wait for a new generation, then rebuild for it. One that runs for an older generation begins anew."""
        await self.reconciliation.changed.wait()
        self.reconciliation.changed.clear()
        if not self.reconciliation.behind:
            return
        running = self._running.get(REBUILD)
        if running is not None and self.rebuild is not None:
            if self.rebuild.generation == self.reconciliation.generation:
                return
            running.cancel()
            await asyncio.wait({running})
        self.start_rebuild(force=False)

    async def _rebuild(self, state: RebuildState) -> None:
        self.confirm.suspended = True
        try:
            async with self._said_in(REBUILD, state):
                await asyncio.to_thread(self._journal.keep, REBUILD, state)
                await Rebuild(self._store, self._rows, self._align, self.found, self._journal).run(state)
                if state.phase == "done":
                    await self.reconciliation.rebuilt(state.generation)
                    await self._announce()
        finally:
            self.confirm.suspended = False

    async def _verify(self, state: VerifyState) -> None:
        rate = self._settings.verify_bytes_per_s
        verify = Verify(self._store, self._align, self.found, self._journal, self._store.clock, rate)
        async with self._said_in(VERIFY, state):
            await _while_away(partial(verify.run, state))

    @asynccontextmanager
    async def _said_in(self, name: str, state: RebuildState | VerifyState | SweepState) -> AsyncIterator[None]:
        """A task that fails says so in its state, and never looks as if it went on. Asking again begins anew."""
        try:
            yield
        except Exception as error:  # the task's edge: whatever ended it is said, and raised again
            state.error, state.finished_at = f"{type(error).__name__}: {error}", self._store.now()
            if not isinstance(state, SweepState):
                with suppress(OSError):
                    await asyncio.to_thread(self._journal.keep, name, state)
            raise

    async def _expire(self) -> None:
        """A file has expired when this element's clock and PostgreSQL's both say so: a wrong clock deletes nothing."""
        if Operation.DELETE in self._allowed():
            now = await self._rows.agreed_now(self._store.clock)
            await expire(self._store, self._rows, self._allowed(), now)

    async def _begin_later(self) -> None:
        """What reads the whole disk does not begin in the minutes after a start."""
        await asyncio.sleep(min(self._settings.sweep_grace_s, CHECK_VERIFY_EVERY_S))
        self._tasks.every("sweep", SWEEP_EVERY_S, self._sweep)
        if self._settings.verify_every_s:
            self._tasks.every("verify-when-due", CHECK_VERIFY_EVERY_S, self._verify_when_due)

    async def _sweep(self) -> None:
        self.sweep = SweepState(started_at=self._store.now(), dry_run=self._settings.sweep_dry_run)
        async with self._said_in("sweep", self.sweep):
            await Sweep(self._store, self._rows, self.found, self._settings.sweep_grace_s).run(self.sweep)

    async def _verify_when_due(self) -> None:
        last = self.verify.finished_at if self.verify is not None else None
        every, now = timedelta(seconds=self._settings.verify_every_s), self._store.clock.now()
        # A time to come was written by a clock that was ahead, and would put the next verification off.
        if last is None or not now - every < parse_rfc3339(last) <= now:
            self.start_verify()


async def _while_away(work: Callable[[], Awaitable[None]]) -> None:
    """The backend may be away for a while: begun again until it comes to its end."""
    while True:
        try:
            await work()
            return
        except Unavailable as error:
            log.warning("upkeep waits", error=error.detail)
            await asyncio.sleep(AWAY_PAUSE_S)


def allowed_in(mode_of: Callable[[], Any]) -> Callable[[], frozenset[Operation]]:
    return lambda: ALLOWED[mode_of()]

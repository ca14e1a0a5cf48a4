"""Orphans: remove temps, and files of which only data or only attr.json exists, once they are older than a
grace period.

An incomplete file that the catalog knows was acknowledged once: it is quarantined, never removed. One that
the catalog does not know was left by the crash of a put that was never acknowledged. Each is checked again
under its lock.
"""

from __future__ import annotations

import asyncio
import os

import msgspec

from artstore.failpoints import failpoint
from artstore.logs import get_logger

from ..store import durable
from ..store.backends.base import FileEntry
from ..store.get import find_attributes_or_unreadable, has_data
from ..store.paths import ATTRIBUTES_SUFFIX, FAN_OUT, printable
from ..store.store import Store
from .journal import Problem
from .quarantine import Action, FindingLog, count_quarantined, quarantine_file
from .rows import Rows

log = get_logger("element.upkeep")

TASK = "sweep"
"""The name of the orphan sweep on the wire and in its findings."""
PAUSE_S = 0.01


class OrphanState(msgspec.Struct, kw_only=True):
    """Shown by GET /api/element."""

    started_at: str
    dry_run: bool
    orphans: int = 0
    temps: int = 0
    finished_at: str | None = None
    error: str | None = None
    """The error that ended the sweep early."""


class OrphanSweep:
    def __init__(self, store: Store, rows: Rows, findings: FindingLog, grace_s: float) -> None:
        self._store, self._rows, self._findings, self._grace_s = store, rows, findings, grace_s

    async def run(self, state: OrphanState) -> None:
        """Raises Unavailable: without the catalog, acknowledged files cannot be distinguished. The
        sweep is started again later."""
        before_s = (await self._rows.agreed_now(self._store.clock)).timestamp() - self._grace_s
        for name in await self._store.scan_in_thread(self._find_old_temps, before_s):
            try:
                await self._remove_temp(state, name)
            except OSError as error:  # concerns this temp only
                log.warning("temp not swept", temp=printable(name), error=str(error))
        for first in FAN_OUT:
            for entry in await self._store.scan_in_thread(self._store.files.survey, first):
                incomplete = not (entry.has_attributes and entry.data_bytes is not None)
                if incomplete and entry.changed_s < before_s:
                    try:
                        await self._remove_orphan(state, entry)
                    except OSError as error:  # concerns this file only
                        log.warning("orphan not swept", file_id=entry.file_id, error=str(error))
            await asyncio.sleep(PAUSE_S)
        await count_quarantined(self._store)
        state.finished_at = self._store.now()
        if state.orphans or state.temps:
            log.warning("orphans swept", orphans=state.orphans, temps=state.temps, dry_run=state.dry_run)

    def _find_old_temps(self, before_s: float) -> list[str]:
        """Old temps that no open intent names."""
        paths = self._store.files.paths
        owned = {opened.record.temp for opened in list(self._store.wal.open.values())}
        names = []
        for entry in os.scandir(paths.temps):
            try:
                old = entry.stat(follow_symlinks=False).st_mtime < before_s
            except FileNotFoundError:
                continue
            if old and entry.name.removesuffix(ATTRIBUTES_SUFFIX) not in owned:
                names.append(entry.name)
        return names

    async def _remove_temp(self, state: OrphanState, name: str) -> None:
        state.temps += 1
        if not state.dry_run and self._store.disk_health.failure is None:
            await asyncio.to_thread(durable.remove, self._store.files.paths.temp(name))
            self._store.findings.swept_temps += 1

    async def _remove_orphan(self, state: OrphanState, entry: FileEntry) -> None:
        file_id, store = entry.file_id, self._store
        if not store.locks.is_free(file_id):
            return  # an operation works on the file: the next sweep checks it
        async with store.locks.hold(file_id):
            encoded = await store.scan_in_thread(find_attributes_or_unreadable, store, file_id)
            has_attributes = encoded is not None
            if has_attributes == await store.scan_in_thread(has_data, store, file_id):
                return
            known = has_attributes or file_id in await self._rows.find([file_id])
            known = known or await store.scan_in_thread(store.files.is_quarantined, file_id)
            state.orphans += 1
            action = await self._remove_or_quarantine(state, file_id, known=known)
        problem: Problem = "data_missing" if has_attributes else "attributes_missing"
        await self._findings.record(TASK, file_id, problem, action)

    async def _remove_or_quarantine(self, state: OrphanState, file_id: str, *, known: bool) -> Action:
        if state.dry_run:
            return "would_remove"
        if known or self._store.disk_health.failure is not None:
            return await quarantine_file(self._store, file_id, None)
        await self._store.in_thread(self._store.files.remove, file_id)
        failpoint("sweep.orphan_removed")
        return "removed"

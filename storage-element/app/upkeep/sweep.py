"""Sweep: halves of files and temps that nobody owns, once they are older than a grace period.

A half that the catalog knows was a file once: it is put aside, never removed. One it has never heard of is what a crash left
of a put that nobody acknowledged. Each is looked at again under its lock.
"""

from __future__ import annotations

import asyncio
import os

import msgspec

from artstore.failpoints import failpoint
from artstore.logs import get_logger

from ..store import durable
from ..store.backends.base import Seen
from ..store.listing import read_many
from ..store.paths import ATTRIBUTES_SUFFIX, FAN_OUT, printable
from ..store.store import Store
from .aside import Action, Found, put_aside
from .looks import has_data
from .rows import Rows

log = get_logger("element.upkeep")

TASK = "sweep"
PAUSE_S = 0.01


class SweepState(msgspec.Struct, kw_only=True):
    """GET /api/element shows it."""

    started_at: str
    dry_run: bool
    orphans: int = 0
    temps: int = 0
    finished_at: str | None = None
    error: str | None = None
    """What ended it before its end."""


class Sweep:
    def __init__(self, store: Store, rows: Rows, found: Found, grace_s: float) -> None:
        self._store, self._rows, self._found, self._grace_s = store, rows, found, grace_s

    async def run(self, state: SweepState) -> None:
        """Raises Unavailable: without the catalog nobody can say what was a file once. It is begun again later."""
        oldest_s = (await self._rows.agreed_now(self._store.clock)).timestamp() - self._grace_s
        for name in await self._store.scan_in_thread(self._stale_temps, oldest_s):
            try:
                await self._temp(state, name)
            except OSError as error:  # this one only
                log.warning("not swept", temp=printable(name), error=str(error))
        for first in FAN_OUT:
            seen = await self._store.scan_in_thread(self._store.files.survey, first)
            halves = [one for one in seen if not (one.has_attributes and one.data_bytes is not None)]
            for half in halves:
                if half.changed_s < oldest_s:
                    try:
                        await self._half(state, half)
                    except OSError as error:  # this file only
                        log.warning("not swept", file_id=half.file_id, error=str(error))
            await asyncio.sleep(PAUSE_S)
        state.finished_at = self._store.now()
        if state.orphans or state.temps:
            log.warning("swept", orphans=state.orphans, temps=state.temps, dry_run=state.dry_run)

    def _stale_temps(self, oldest_s: float) -> list[str]:
        """Old ones that no open intent names."""
        paths = self._store.files.paths
        owned = {begun.intent.temp for begun in list(self._store.wal.open.values())}
        stale = []
        for entry in os.scandir(paths.temps):
            try:
                old = entry.stat(follow_symlinks=False).st_mtime < oldest_s
            except FileNotFoundError:
                continue
            if old and entry.name.removesuffix(ATTRIBUTES_SUFFIX) not in owned:
                stale.append(entry.name)
        return stale

    async def _temp(self, state: SweepState, name: str) -> None:
        state.temps += 1
        if not state.dry_run and self._store.disk_health.failure is None:
            await asyncio.to_thread(durable.remove, self._store.files.paths.temp(name))
            self._store.findings.swept_temps += 1

    async def _half(self, state: SweepState, half: Seen) -> None:
        file_id = half.file_id
        if not self._store.locks.is_free(file_id):
            return  # somebody is at it: the next sweep
        async with self._store.locks.hold(file_id):
            (encoded,) = await self._store.scan_in_thread(read_many, self._store, [file_id])
            has_attributes = encoded is not None
            if has_attributes == await self._store.scan_in_thread(has_data, self._store, file_id):
                return
            known = has_attributes or file_id in await self._rows.find([file_id])
            known = known or await self._store.scan_in_thread(self._store.files.is_aside, file_id)
            state.orphans += 1
            action = await self._deal_with(state, file_id, known=known)
        await self._found.note(TASK, file_id, "data_missing" if has_attributes else "attributes_missing", action)

    async def _deal_with(self, state: SweepState, file_id: str, *, known: bool) -> Action:
        if state.dry_run:
            return "would_remove"
        if known or self._store.disk_health.failure is not None:
            return await put_aside(self._store, file_id, None)
        await self._store.in_thread(self._store.files.remove, file_id)
        failpoint("sweep.orphan_removed")
        return "removed"

"""Rebuild: afterwards the catalog says of this element what its disk says, whatever it said before.

Online and resumable. The disk is surveyed folder by folder without a lock; only what differs from its row is looked at again
under its lock and corrected. A crash anywhere leaves some rows right and some not yet: the next start goes on at the folder
that the journal names, and doing one twice does nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Literal

import msgspec

from artstore.errors import ElementFailed, Unavailable
from artstore.failpoints import failpoint
from artstore.logs import get_logger

from ..store.backends.base import Seen
from ..store.checkpoint import checkpoint
from ..store.listing import read_many
from ..store.paths import FAN_OUT
from ..store.store import Store
from .align import AT_ONCE, Align, Sized
from .aside import Found
from .guard import refusal
from .journal import Journal
from .missing import find_missing, forget_missing, is_mounted
from .rows import Rows

log = get_logger("element.upkeep")

TASK = "rebuild"
AWAY_PAUSE_S = 2.0
"""Before the catalog is asked again while it is away."""
LATER_PAUSE_S = 1.0
KEEP_EVERY_S = 1.0
"""How much of it a crash lets be done again."""
READ_AT_ONCE = 4096
PAUSE_S = 0.002
"""Between two reads, so that requests have the processor too."""

Phase = Literal["files", "rows", "later", "done", "refused"]


class RebuildState(msgspec.Struct, kw_only=True):
    """GET /api/element shows it; the journal keeps it."""

    started_at: str
    force: bool = False
    generation: int = 0
    """Of the catalog that it brings in line with the disk."""
    phase: Phase = "files"
    next_folder: int = 0
    """Of the 256 first-level folders: what lies before it is done."""
    files: int = 0
    corrected: int = 0
    put_aside: int = 0
    unreadable: int = 0
    """Files that the disk does not give. They and their rows stay."""
    refused: int = 0
    """Files whose row PostgreSQL does not take."""
    forgotten: int = 0
    finished_at: str | None = None
    reason: str | None = None
    """Why it was refused."""
    error: str | None = None
    """What ended it before its end."""
    waiting_for: str | None = None
    later: list[str] = []
    """Files to look at again at the end."""


class Rebuild:
    def __init__(self, store: Store, rows: Rows, align: Align, found: Found, journal: Journal) -> None:
        self._store, self._rows, self._align, self._found, self._journal = store, rows, align, found, journal
        self._kept_s = store.clock.monotonic_s()

    async def run(self, state: RebuildState) -> None:
        """From where `state` stands to the end; `state` always says how far it is."""
        # 1 the files: what lies on the disk gets its row
        while state.next_folder < len(FAN_OUT):
            await self._until_there(state, partial(self._folder, state, FAN_OUT[state.next_folder]))
            state.next_folder += 1
            if self._store.clock.monotonic_s() - self._kept_s > KEEP_EVERY_S:
                await self._keep(state)
            failpoint("rebuild.folder_done")
        # 2 the rows: what has a row and no file loses it
        if state.phase == "files":
            state.phase = "rows"
            await self._keep(state)
        if state.phase == "rows" and not await self._until_there(state, partial(self._missing, state)):
            return
        failpoint("rebuild.rows_done")
        # 3 what was locked, and uploads whose saga may still be committed: again until nothing is left
        if state.phase != "later":
            state.phase = "later"
            state.later = list({**dict.fromkeys(state.later), **self._store.unconfirmed})
            await self._keep(state)
        while state.later:
            await self._until_there(state, partial(self._again, state))
        await self._let_the_past_go()
        state.phase, state.finished_at = "done", self._store.now()
        await self._keep(state)
        log.info("catalog rebuilt", files=state.files, corrected=state.corrected, forgotten=state.forgotten)

    async def _let_the_past_go(self) -> None:
        """What was on the disk just now is durable, and no older delete or change in the log is played again over it."""
        try:
            await checkpoint(self._store, rotate=True)
        except ElementFailed as error:
            log.warning("no checkpoint after the rebuild", error=error.detail)

    async def _folder(self, state: RebuildState, first: str) -> bool:
        seen = await self._store.scan_in_thread(self._store.files.survey, first)
        whole = [one for one in seen if one.has_attributes]
        for start in range(0, len(whole), READ_AT_ONCE):
            await self._compare(state, whole[start : start + READ_AT_ONCE])
            await asyncio.sleep(PAUSE_S)
        state.files += len(whole)
        return True

    async def _compare(self, state: RebuildState, seen: list[Seen]) -> None:
        file_ids = [one.file_id for one in seen]
        encoded, rows = await asyncio.gather(
            self._store.scan_in_thread(read_many, self._store, file_ids), self._rows.find(file_ids)
        )
        seen_bytes = {one.file_id: one.data_bytes for one in seen}
        suspects = [
            one.file_id
            for one, content in zip(seen, encoded, strict=True)
            if content is not None
            and not (
                _fits(content, one.data_bytes) and self._align.in_line(one.file_id, content, rows.get(one.file_id))
            )
        ]
        for start in range(0, len(suspects), AT_ONCE):
            await self._bring_in_line(state, suspects[start : start + AT_ONCE], seen_bytes)

    async def _bring_in_line(
        self, state: RebuildState, file_ids: list[str], seen_bytes: Mapping[str, int | None] | None
    ) -> None:
        aligned = await self._align.align(file_ids, TASK, "keep", seen_bytes)
        state.corrected += aligned.corrected
        state.put_aside += aligned.put_aside
        state.unreadable += len(aligned.unreadable)
        state.refused += aligned.refused
        state.later += aligned.later

    async def _missing(self, state: RebuildState) -> bool:
        missing = await find_missing(self._store, self._rows)
        usage = self._store.usage
        counted = usage.files if usage.exact else None
        reason = refusal(
            state.files, len(missing), mounted=is_mounted(self._store), forced=state.force, counted=counted
        )
        if reason is not None:
            state.phase, state.reason, state.finished_at = "refused", reason, self._store.now()
            await self._keep(state)
            log.error("rebuild takes no rows away", reason=reason, missing=len(missing))
            return False
        for start in range(0, len(missing), AT_ONCE):
            forgotten, busy = await forget_missing(
                self._store, self._rows, self._found, missing[start : start + AT_ONCE]
            )
            state.forgotten += forgotten
            state.later += busy
        return True

    async def _again(self, state: RebuildState) -> bool:
        again, state.later = state.later, []
        try:
            for start in range(0, len(again), AT_ONCE):
                await self._bring_in_line(state, again[start : start + AT_ONCE], None)
        except Unavailable:
            state.later = again
            raise
        if state.later:
            state.waiting_for = f"{len(state.later)} files that are being changed or uploaded"
            await asyncio.sleep(LATER_PAUSE_S)
        return True

    async def _until_there(self, state: RebuildState, step: Callable[[], Awaitable[bool]]) -> bool:
        """The catalog may be away for hours: the step is begun again until it comes to its end."""
        while True:
            try:
                return await step()
            except Unavailable as error:
                state.waiting_for = error.detail
                await asyncio.sleep(AWAY_PAUSE_S)
            finally:
                state.waiting_for = None

    async def _keep(self, state: RebuildState) -> None:
        self._kept_s = self._store.clock.monotonic_s()
        await asyncio.to_thread(self._journal.keep, TASK, state)


def _fits(encoded: bytes, data_bytes: int | None) -> bool:
    try:
        return msgspec.json.decode(encoded, type=Sized).size_bytes == data_bytes
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False

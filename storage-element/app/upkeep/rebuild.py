"""Rebuild: make the catalog's rows of this element say what its disk says, whatever they said before.

A rebuild runs while requests are served, and can be resumed. It surveys the disk folder by folder without
locks; only files that differ from their rows are read again under their locks and corrected. After a crash
some rows are corrected and some are not: the next start resumes at the folder that the journal names.
Repeating a folder changes nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Literal

import msgspec

from artstore.errors import ElementFailed, Unavailable
from artstore.failpoints import failpoint
from artstore.logs import get_logger

from ..store.backends.base import FileEntry
from ..store.checkpoint import checkpoint
from ..store.get import find_many_attributes, has_data
from ..store.paths import FAN_OUT
from ..store.store import Store
from .journal import Journal
from .quarantine import FindingLog, quarantine_file
from .reconcile import GROUP, Reconciler, SizeOnly
from .rows import FIRST_ID, Corrections, Rows

log = get_logger("element.upkeep")

TASK = "rebuild"
UNAVAILABLE_PAUSE_S = 2.0
"""Before a step is tried again while the catalog is unavailable."""
LATER_PAUSE_S = 1.0
SAVE_EVERY_S = 1.0
"""At most this much work is repeated after a crash."""
FOLDERS_AT_ONCE = 8
"""In a small store they fill one group; in a large one their names fit into memory."""
READ_GROUP = 4 * GROUP
"""Files that are compared together. Their groups are reconciled at the same time: while PostgreSQL writes the rows of one,
the next is read from the disk."""
ROWS_PAGE = 4096
PAUSE_S = 0.002
"""Between two reads, so that requests get processor time too."""
MIN_FOUND_SHARE = 0.9
"""Share of the counted files that must be found: some may have been put or deleted since the survey."""
UNCHECKED_ROWS = 100
"""Up to this many rows are removed without further conditions, as long as some file was found."""

Phase = Literal["files", "rows", "later", "done", "refused"]


class RebuildState(msgspec.Struct, kw_only=True):
    """Shown by GET /api/element and saved in the journal."""

    started_at: str
    force: bool = False
    generation: int = 0
    """The generation of the catalog that is being rebuilt."""
    phase: Phase = "files"
    next_folder: int = 0
    """Index of the first of the 256 first-level folders that is not done."""
    files: int = 0
    corrected: int = 0
    put_aside: int = 0
    """Files moved to quarantine."""
    unreadable: int = 0
    """Files that the disk could not read. They and their rows stay."""
    refused: int = 0
    """Files whose row PostgreSQL refused."""
    forgotten: int = 0
    finished_at: str | None = None
    reason: str | None = None
    """Why the rebuild was refused."""
    error: str | None = None
    """The error that ended the rebuild early."""
    waiting_for: str | None = None
    later: list[str] = []
    """Files to check again at the end."""


class Rebuild:
    def __init__(
        self, store: Store, rows: Rows, reconciler: Reconciler, findings: FindingLog, journal: Journal
    ) -> None:
        self._store, self._rows, self._reconciler, self._findings = store, rows, reconciler, findings
        self._journal = journal
        self._saved_s = store.clock.monotonic_s()

    async def run(self, state: RebuildState) -> None:
        """Continue from `state` to the end; `state` always shows the progress."""
        # 1 Files: each file on the disk gets its row
        while state.next_folder < len(FAN_OUT):
            folders = FAN_OUT[state.next_folder : state.next_folder + FOLDERS_AT_ONCE]
            await self._until_available(state, partial(self._folders, state, folders))
            state.next_folder += len(folders)
            if self._store.clock.monotonic_s() - self._saved_s > SAVE_EVERY_S:
                await self._save(state)
        # 2 Rows: each row without a file is removed
        if state.phase == "files":
            state.phase = "rows"
            await self._save(state)
        if state.phase == "rows" and not await self._until_available(state, partial(self._remove_rows, state)):
            return
        failpoint("rebuild.rows_done")
        # 3 Files that were locked, and uploads whose saga may still be committed, until none is left
        if state.phase != "later":
            state.phase = "later"
            state.later = list({**dict.fromkeys(state.later), **self._store.unconfirmed})
            await self._save(state)
        while state.later:
            await self._until_available(state, partial(self._later, state))
        await self._checkpoint()
        state.phase, state.finished_at = "done", self._store.now()
        await self._save(state)
        log.info("catalog rebuilt", files=state.files, corrected=state.corrected, forgotten=state.forgotten)

    async def _checkpoint(self) -> None:
        """Files restored by hand are durable now, and no older delete or change in the log is replayed over
        them."""
        try:
            await checkpoint(self._store, rotate=True)
        except ElementFailed as error:
            log.warning("no checkpoint after the rebuild", error=error.detail)

    async def _folders(self, state: RebuildState, folders: Sequence[str]) -> bool:
        files: list[FileEntry] = []
        for first in folders:
            surveyed = await self._store.scan_in_thread(self._store.files.survey, first)
            files += [entry for entry in surveyed if entry.has_attributes]
        for start in range(0, len(files), READ_GROUP):
            await self._compare(state, files[start : start + READ_GROUP])
            await asyncio.sleep(PAUSE_S)
        state.files += len(files)
        for _ in folders:
            failpoint("rebuild.folder_done")
        return True

    async def _compare(self, state: RebuildState, entries: list[FileEntry]) -> None:
        """Files without a row are not read here: they are read under their locks anyway."""
        rows = await self._rows.find([entry.file_id for entry in entries])
        known = [entry for entry in entries if entry.file_id in rows]
        encoded = await self._store.scan_in_thread(find_many_attributes, self._store, [one.file_id for one in known])
        surveyed_bytes = {entry.file_id: entry.data_bytes for entry in entries}
        different = [entry.file_id for entry in entries if entry.file_id not in rows] + [
            entry.file_id
            for entry, content in zip(known, encoded, strict=True)
            if content is not None
            and not (
                _states_size(content, entry.data_bytes)
                and self._reconciler.matches(entry.file_id, content, rows[entry.file_id])
            )
        ]
        groups = (different[start : start + GROUP] for start in range(0, len(different), GROUP))
        steps = (self._reconcile(state, group, surveyed_bytes) for group in groups)
        for ended in await asyncio.gather(*steps, return_exceptions=True):  # all have ended, also when one has failed
            if isinstance(ended, BaseException):
                raise ended

    async def _reconcile(
        self, state: RebuildState, file_ids: list[str], surveyed_bytes: Mapping[str, int | None] | None
    ) -> None:
        outcome = await self._reconciler.reconcile(file_ids, TASK, "keep", surveyed_bytes)
        state.corrected += outcome.corrected
        state.put_aside += outcome.quarantined
        state.unreadable += len(outcome.unreadable)
        state.refused += outcome.refused
        state.later += outcome.later

    async def _remove_rows(self, state: RebuildState) -> bool:
        missing = await self._find_rows_without_file()
        usage = self._store.usage
        counted = usage.files if usage.exact else None
        reason = refusal(state.files, len(missing), mounted=self._is_mounted(), forced=state.force, counted=counted)
        if reason is not None:
            state.phase, state.reason, state.finished_at = "refused", reason, self._store.now()
            await self._save(state)
            log.error("rebuild removes no rows", reason=reason, missing=len(missing))
            return False
        for start in range(0, len(missing), GROUP):
            await self._remove_group(state, missing[start : start + GROUP])
        return True

    async def _find_rows_without_file(self) -> list[str]:
        """Ids of this element's rows whose file has no attr.json on the disk. Raises Unavailable."""
        missing: list[str] = []
        after = FIRST_ID
        while ids := await self._rows.page(after, ROWS_PAGE):
            encoded = await self._store.scan_in_thread(find_many_attributes, self._store, ids)
            missing += [file_id for file_id, content in zip(ids, encoded, strict=True) if content is None]
            after = ids[-1]
        return missing

    async def _remove_group(self, state: RebuildState, file_ids: Sequence[str]) -> None:
        """Remove the rows of files that are still missing under their locks. Data without attributes is
        quarantined."""
        store = self._store
        state.later += [file_id for file_id in file_ids if not store.locks.is_free(file_id)]
        async with AsyncExitStack() as locks:
            held = [file_id for file_id in file_ids if store.locks.is_free(file_id)]
            for file_id in held:
                await locks.enter_async_context(store.locks.hold(file_id))  # free, so this does not wait
            encoded = await store.scan_in_thread(find_many_attributes, store, held)
            rows = await self._rows.find(held)
            corrections = Corrections()
            for file_id, content in zip(held, encoded, strict=True):
                row = rows.get(file_id)
                if content is not None or row is None or row.storage_element_id != store.element_id:
                    continue
                if await store.scan_in_thread(has_data, store, file_id):
                    action = await quarantine_file(store, file_id, None)
                    await self._findings.record(TASK, file_id, "attributes_missing", action)
                corrections.remove(row, store.element_id)
            await self._rows.correct(corrections)
        state.forgotten += len(corrections.gone)
        if corrections.gone:
            # Deleted since the catalog's dump, or lost with what the disk held before: an operator must be able to tell.
            ids = [event.file_id for event in corrections.gone]
            log.warning("rows without a file removed", files=len(ids), file_ids=ids)

    def _is_mounted(self) -> bool:
        """True if the root's path still leads to the folder that was opened, with an element's files in
        it."""
        paths = self._store.files.paths
        try:
            now, opened = os.stat(paths.root), os.fstat(self._store.root_fd)
        except OSError:
            return False
        return (now.st_dev, now.st_ino) == (opened.st_dev, opened.st_ino) and os.path.isdir(paths.files)

    async def _later(self, state: RebuildState) -> bool:
        again, state.later = state.later, []
        try:
            for start in range(0, len(again), GROUP):
                await self._reconcile(state, again[start : start + GROUP], None)
        except Unavailable:
            state.later = again
            raise
        if state.later:
            state.waiting_for = f"{len(state.later)} files that are being changed or uploaded"
            await asyncio.sleep(LATER_PAUSE_S)
        return True

    async def _until_available(self, state: RebuildState, step: Callable[[], Awaitable[bool]]) -> bool:
        """The catalog may be unavailable for hours: repeat the step until it completes."""
        while True:
            try:
                return await step()
            except Unavailable as error:
                state.waiting_for = error.detail
                await asyncio.sleep(UNAVAILABLE_PAUSE_S)
            finally:
                state.waiting_for = None

    async def _save(self, state: RebuildState) -> None:
        self._saved_s = self._store.clock.monotonic_s()
        await asyncio.to_thread(self._journal.save, TASK, state)


def refusal(found: int, missing: int, *, mounted: bool, forced: bool, counted: int | None = None) -> str | None:
    """Why `missing` rows must not be removed while `found` files were found on the disk; None when they may
    be. Pure.

    `counted` is the number of files according to the log: a disk that holds them is the right one, and the
    catalog is behind.
    """
    if missing == 0 or forced:
        return None
    if not mounted:
        return "the root is not the folder that was opened: is its disk mounted?"
    if counted is not None and found >= MIN_FOUND_SHARE * counted:
        return None
    if found == 0:
        return f"no file was found, and the catalog has {missing}: is the right disk mounted?"
    if missing > UNCHECKED_ROWS and missing > found:
        return f"{missing} of the catalog's rows have no file, more than the {found} files that were found"
    return None


def _states_size(encoded: bytes, data_bytes: int | None) -> bool:
    try:
        return msgspec.json.decode(encoded, type=SizeOnly).size_bytes == data_bytes
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False

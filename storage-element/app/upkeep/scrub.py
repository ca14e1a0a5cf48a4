"""Scrub: read every file's bytes again, slowly, and compare them with the checksum in attr.json (POST
/api/element/verify).

A scrub resumes after the last id that it checked. A mismatch counts only after a second reading under the
file's lock; then the file is quarantined. A file that the disk cannot read is a finding and stays in place:
reading may succeed again.
"""

from __future__ import annotations

import asyncio
import hashlib
from itertools import islice

import msgspec

from artstore.clock import Clock
from artstore.contracts.files import Attributes
from artstore.errors import ArtStoreError, Unavailable
from artstore.failpoints import failpoint
from artstore.logs import get_logger

from ..store.backends.base import OpenData
from ..store.disk_health import FileUnreadable
from ..store.get import open_file
from ..store.paths import printable
from ..store.store import Store
from .journal import Journal
from .quarantine import FindingLog, count_quarantined, quarantine_file
from .reconcile import GROUP, Reconciler

log = get_logger("element.upkeep")

TASK = "verify"
"""The name of the scrub on the wire, in the journal and in its findings."""
PIECE_BYTES = 1 << 20
MIN_BYTES = 16 << 10
"""A smaller file counts as this much: its cost is in opening it."""
SAVE_EVERY_S = 10.0
MAX_STRAY_NAMES = 100


class ScrubState(msgspec.Struct, kw_only=True):
    """Shown by GET /api/element and saved in the journal."""

    started_at: str
    after: str = ""
    files: int = 0
    bytes_read: int = 0
    damaged: int = 0
    unreadable: int = 0
    strays: int = 0
    """Names in the folders that are not this element's files. They are left alone."""
    stray_names: list[str] = []
    """The first of them."""
    finished_at: str | None = None
    error: str | None = None
    """The error that ended the scrub early."""


class Throttle:
    """A limit on bytes per second (0: none). The pause after each piece is as long as the piece was large;
    unused time is not saved up."""

    __slots__ = ("_bytes_per_s", "_free_at_s")

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at_s = 0.0

    def pause_s(self, size_bytes: int, now_s: float) -> float:
        """How long to wait after reading `size_bytes` at `now_s` of any monotonic clock."""
        if not self._bytes_per_s:
            return 0.0
        self._free_at_s = max(self._free_at_s, now_s) + size_bytes / self._bytes_per_s
        return self._free_at_s - now_s


class Scrub:
    def __init__(
        self,
        store: Store,
        reconciler: Reconciler,
        findings: FindingLog,
        journal: Journal,
        clock: Clock,
        bytes_per_s: int,
    ) -> None:
        self._store, self._reconciler, self._findings = store, reconciler, findings
        self._journal, self._clock = journal, clock
        self._throttle = Throttle(bytes_per_s)
        self._saved_s = clock.monotonic_s()

    async def run(self, state: ScrubState) -> None:
        """From `state.after` to the end."""
        while file_ids := await self._store.scan_in_thread(self._next, state.after):
            for file_id in file_ids:
                await self._check(state, file_id)
                state.after = file_id
                if self._clock.monotonic_s() - self._saved_s > SAVE_EVERY_S:
                    await self._save(state)
        await count_quarantined(self._store)
        strays = await self._store.scan_in_thread(lambda: list(self._store.files.walk_strays()))
        while self._store.files.unreadable_folders:
            folder = printable(self._store.files.unreadable_folders.pop())
            await self._unreadable(state, folder, "the folder cannot be listed")
        state.strays, state.stray_names = len(strays), strays[:MAX_STRAY_NAMES]
        state.finished_at = self._store.now()
        await self._save(state)
        log.info(
            "files verified",
            files=state.files,
            bytes_read=state.bytes_read,
            damaged=state.damaged,
            unreadable=state.unreadable,
            strays=state.strays,
        )

    def _next(self, after: str) -> list[str]:
        return list(islice(self._store.files.walk(after), GROUP))

    async def _check(self, state: ScrubState, file_id: str) -> None:
        """A file too damaged to be opened is quarantined by the reconciler, as in a rebuild."""
        try:
            opened = await open_file(self._store, file_id)
        except Unavailable:
            return  # the backend does not answer: the next run reads the file
        except FileUnreadable as error:
            await self._unreadable(state, file_id, error.detail)
            return
        except ArtStoreError:
            await self._quarantine_unopenable(state, file_id)
            return
        try:
            matches = await self._matches(opened.data, opened.attributes)
        except OSError as error:
            await self._unreadable(state, file_id, str(error))
            return
        finally:
            opened.close()
        state.files += 1
        state.bytes_read += opened.attributes.size_bytes
        if not matches:
            await self.check_locked(state, file_id)

    async def _matches(self, data: OpenData, attributes: Attributes) -> bool:
        """True if the bytes have the checksum of the attributes, read from the disk and not from the page
        cache."""
        sha256, position = hashlib.sha256(), 0
        await self._store.scan_in_thread(data.drop_cache)
        while position < attributes.size_bytes:
            read_bytes = await self._store.scan_in_thread(_hash_piece, data, position, sha256)
            if not read_bytes:
                break
            position += read_bytes
            await asyncio.sleep(self._throttle.pause_s(read_bytes, self._clock.monotonic_s()))
        await asyncio.sleep(self._throttle.pause_s(max(0, MIN_BYTES - position), self._clock.monotonic_s()))
        return f"sha256:{sha256.hexdigest()}" == attributes.checksum

    async def check_locked(self, state: ScrubState, file_id: str) -> None:
        """Under the lock nothing changes the file: a second mismatch is damage."""
        async with self._store.locks.hold(file_id):
            try:
                opened = await open_file(self._store, file_id)
            except ArtStoreError:
                return  # deleted meanwhile, or damaged further: the next run reports it
            try:
                if await self._matches(opened.data, opened.attributes):
                    return
            except OSError as error:
                await self._unreadable(state, file_id, str(error))
                return
            finally:
                opened.close()
            failpoint("verify.mismatch_sure")
            action = await quarantine_file(self._store, file_id, opened.attributes.size_bytes)
        state.damaged += 1
        await self._findings.record(TASK, file_id, "hash_differs", action, f"revision {opened.attributes.revision}")
        await self._remove_row(file_id)

    async def _unreadable(self, state: ScrubState, file_id: str, detail: str) -> None:
        """The file stays: a cable or a controller may be at fault, and the next reading may succeed."""
        state.unreadable += 1
        await self._findings.record(TASK, file_id, "unreadable", "kept", detail)

    async def _quarantine_unopenable(self, state: ScrubState, file_id: str) -> None:
        try:
            outcome = await self._reconciler.reconcile([file_id], TASK, "undo", {})
        except Unavailable:
            return
        state.damaged += outcome.quarantined
        state.unreadable += len(outcome.unreadable)

    async def _remove_row(self, file_id: str) -> None:
        """While a row outlives its file, reads are answered with `quarantined`; a rebuild removes it."""
        try:
            await self._reconciler.reconcile([file_id], TASK, "undo")
        except Unavailable as error:
            log.warning("row of a damaged file not removed", file_id=file_id, error=error.detail)

    async def _save(self, state: ScrubState) -> None:
        self._saved_s = self._clock.monotonic_s()
        await asyncio.to_thread(self._journal.save, TASK, state)


def _hash_piece(data: OpenData, position: int, sha256: hashlib._Hash) -> int:
    piece = data.read(position, PIECE_BYTES)
    sha256.update(piece)
    return len(piece)

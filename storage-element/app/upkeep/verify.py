"""Verify: every file's bytes are read again, slowly, and compared with the checksum in its attr.json.

Resumable by the last id it came to. A mismatch is believed only after a second reading under the file's lock; then the file
is put aside. A file that the disk refuses to give is a finding and stays where it is: reading may work again.
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
from .align import AT_ONCE, Align
from .aside import Found, put_aside
from .journal import Journal
from .pace import Pace

log = get_logger("element.upkeep")

TASK = "verify"
PIECE_BYTES = 1 << 20
LEAST_BYTES = 16 << 10
"""What a small file counts as: its cost is in finding it."""
KEEP_EVERY_S = 10.0
MAX_STRAY_NAMES = 100


class VerifyState(msgspec.Struct, kw_only=True):
    """GET /api/element shows it; the journal keeps it."""

    started_at: str
    after: str = ""
    files: int = 0
    bytes_read: int = 0
    damaged: int = 0
    unreadable: int = 0
    strays: int = 0
    """Names in the folders that are no files of ours. They are left alone."""
    stray_names: list[str] = []
    """The first of them."""
    finished_at: str | None = None
    error: str | None = None
    """What ended it before its end."""


class Verify:
    def __init__(self, store: Store, align: Align, found: Found, journal: Journal, clock: Clock, rate: int) -> None:
        self._store, self._align, self._found, self._journal, self._clock = store, align, found, journal, clock
        self._pace = Pace(rate)
        self._kept_s = clock.monotonic_s()

    async def run(self, state: VerifyState) -> None:
        """From `state.after` to the end."""
        while file_ids := await self._store.scan_in_thread(self._next, state.after):
            for file_id in file_ids:
                await self._verify(state, file_id)
                state.after = file_id
                if self._clock.monotonic_s() - self._kept_s > KEEP_EVERY_S:
                    await self._keep(state)
        strays = await self._store.scan_in_thread(lambda: list(self._store.files.walk_strays()))
        while self._store.files.unreadable_folders:
            folder = printable(self._store.files.unreadable_folders.pop())
            await self._unreadable(state, folder, "the folder cannot be listed")
        state.strays, state.stray_names = len(strays), strays[:MAX_STRAY_NAMES]
        state.finished_at = self._store.now()
        await self._keep(state)
        log.info(
            "files verified",
            files=state.files,
            bytes_read=state.bytes_read,
            damaged=state.damaged,
            unreadable=state.unreadable,
            strays=state.strays,
        )

    def _next(self, after: str) -> list[str]:
        return list(islice(self._store.files.walk(after), AT_ONCE))

    async def _verify(self, state: VerifyState, file_id: str) -> None:
        """One file. One that is damaged so that it cannot be opened is put aside by the same hand as in a rebuild."""
        try:
            opened = await open_file(self._store, file_id)
        except Unavailable:
            return  # the backend is away: the next run reads it
        except FileUnreadable as error:
            await self._unreadable(state, file_id, error.detail)
            return
        except ArtStoreError:
            await self._put_aside(state, file_id)
            return
        try:
            sound = await self._is_sound(opened.data, opened.attributes)
        except OSError as error:
            await self._unreadable(state, file_id, str(error))
            return
        finally:
            opened.close()
        state.files += 1
        state.bytes_read += opened.attributes.size_bytes
        if not sound:
            await self._look_again(state, file_id)

    async def _is_sound(self, data: OpenData, attributes: Attributes) -> bool:
        sha256, position = hashlib.sha256(), 0
        await self._store.scan_in_thread(data.forget)
        while position < attributes.size_bytes:
            took = await self._store.scan_in_thread(_hash_piece, data, position, sha256)
            if not took:
                break
            position += took
            await asyncio.sleep(self._pace.pause_s(took, self._clock.monotonic_s()))
        await asyncio.sleep(self._pace.pause_s(max(0, LEAST_BYTES - position), self._clock.monotonic_s()))
        return f"sha256:{sha256.hexdigest()}" == attributes.checksum

    async def _look_again(self, state: VerifyState, file_id: str) -> None:
        """Nobody else is at it now: what differs again is damaged."""
        async with self._store.locks.hold(file_id):
            try:
                opened = await open_file(self._store, file_id)
            except ArtStoreError:
                return  # deleted meanwhile, or worse: the next run says what
            try:
                if await self._is_sound(opened.data, opened.attributes):
                    return
            except OSError as error:
                await self._unreadable(state, file_id, str(error))
                return
            finally:
                opened.close()
            failpoint("verify.mismatch_sure")
            action = await put_aside(self._store, file_id, opened.attributes.size_bytes)
        state.damaged += 1
        await self._found.note(TASK, file_id, "hash_differs", action, f"revision {opened.attributes.revision}")
        await self._tell_catalog(file_id)

    async def _unreadable(self, state: VerifyState, file_id: str, detail: str) -> None:
        """Not put aside: a cable or a controller may be at fault, and the next reading may succeed."""
        state.unreadable += 1
        await self._found.note(TASK, file_id, "unreadable", "kept", detail)

    async def _put_aside(self, state: VerifyState, file_id: str) -> None:
        try:
            aligned = await self._align.align([file_id], TASK, "undo", {})
        except Unavailable:
            return
        state.damaged += aligned.put_aside
        state.unreadable += len(aligned.unreadable)

    async def _tell_catalog(self, file_id: str) -> None:
        """A row that outlives its file is answered by the element with `quarantined`, until a rebuild takes it away."""
        try:
            await self._align.align([file_id], TASK, "undo")
        except Unavailable as error:
            log.warning("catalog not told of a damaged file", file_id=file_id, error=error.detail)

    async def _keep(self, state: VerifyState) -> None:
        self._kept_s = self._clock.monotonic_s()
        await asyncio.to_thread(self._journal.keep, TASK, state)


def _hash_piece(data: OpenData, position: int, sha256: hashlib._Hash) -> int:
    piece = data.read(position, PIECE_BYTES)
    sha256.update(piece)
    return len(piece)

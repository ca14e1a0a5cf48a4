"""The load for fault tests: every operation of the store, each noted in the journal before it begins and when it was answered."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

from app.store.append import AppendOrder, append
from app.store.checkpoint import checkpoint
from app.store.delete import compensate, delete
from app.store.finish import complete
from app.store.get import load_attributes
from app.store.pending import settle_all
from app.store.put import PutOrder, put
from app.store.receive import Body, Expected
from app.store.settle_late import settle_late_rows
from app.store.store import Store
from app.store.unfinished import Upload, Uploads
from app.store.update import RewriteOrder, patch, rewrite
from artstore.clock import uuid7
from artstore.contracts.files import Changes
from artstore.contracts.uploads import Checksum, NewUpload
from artstore.errors import ArtStoreError, ChecksumMismatch, Malformed

from ..store.support import MAX_BYTES, RememberingCatalog, body_of, chunks_of, new_file
from .journal import ABSENT, Journal, KeptCatalog, Notes, State, state_of

SMALL_BYTES, LARGE_BYTES = 700, 70_000
ACCOUNT = "0190-account"
TTL_S = 86_400


def journal_of(root: Path) -> Path:
    return root.with_suffix(".journal")


def catalog_of(root: Path) -> Path:
    return root.with_suffix(".catalog")


def recorded_of(root: Path) -> Path:
    """The changes that the audit log got: lines of action, file id and revision."""
    return root.with_suffix(".recorded")


def uploaded_of(root: Path) -> Path:
    """The whole content of a resumable upload."""
    return root.with_suffix(".uploaded")


def offset_of(root: Path) -> Path:
    """How much of it was acknowledged."""
    return root.with_suffix(".offset")


def confirmed_of(root: Path) -> Path:
    """Ids of files that no recovery may hold for unconfirmed."""
    return root.with_suffix(".confirmed")


class Work:
    """Files by id as they were answered last. A step that is refused ends `attempt` with False, whatever was refused."""

    def __init__(self, store: Store, journal: Notes, catalog: RememberingCatalog, random: Random | None = None) -> None:
        self.store, self.journal, self.catalog = store, journal, catalog
        self._random = random or Random()
        self._content: dict[str, tuple[bytes, int]] = {}

    def know(self, file_id: str, content: bytes, revision: int) -> None:
        """A file from before."""
        self._content[file_id] = (content, revision)

    async def complete(self, uploads: Uploads, upload: Upload, content: bytes) -> bool:
        """Ends with the record saying so, as after the commit of its saga."""
        record, state = upload.record, state_of(content, 1)
        assert record.file_id is not None
        assert record.saga_id is not None
        file_id, saga_id = record.file_id, record.saga_id
        if not await self._attempt(file_id, state, lambda: complete(uploads, upload, saga_id, lambda _: None)):
            return False
        try:
            await uploads.settle(upload, saga_id, committed=True)
        except ArtStoreError:
            return False
        self._content[file_id] = (content, 1)
        return True

    def bytes(self, size: int) -> bytes:
        return self._random.randbytes(size)

    async def put(
        self,
        size: int,
        saga_id: str | None = None,
        body: Body | None = None,
        file_id: str | None = None,
        *,
        settle_late: bool = False,
    ) -> str:
        file_id, content = file_id or str(uuid7()), self.bytes(size)
        order = PutOrder(file_id, new_file(), saga_id or str(uuid7()), settle_late=settle_late)
        if await self._attempt(file_id, state_of(content, 1), lambda: put(self.store, order, body or body_of(content))):
            self._content[file_id] = (content, 1)
        return file_id

    async def patch(self, file_id: str) -> None:
        if file_id not in self._content:
            return  # its put was refused
        content, revision = self._content[file_id]
        changes = Changes(tags=[f"revision {revision + 1}"])
        if await self._attempt(
            file_id, state_of(content, revision + 1), lambda: patch(self.store, file_id, changes, None, ACCOUNT)
        ):
            self._content[file_id] = (content, revision + 1)

    async def rewrite(self, file_id: str, size: int, expected: Expected | None = None) -> None:
        if file_id not in self._content:
            return
        content, revision = self.bytes(size), self._content[file_id][1] + 1
        order = RewriteOrder(file_id, account=ACCOUNT, expected=expected or Expected())
        if await self._attempt(
            file_id, state_of(content, revision), lambda: rewrite(self.store, order, body_of(content))
        ):
            self._content[file_id] = (content, revision)

    async def delete(self, file_id: str) -> None:
        if file_id in self._content and await self._attempt(
            file_id, ABSENT, lambda: delete(self.store, file_id, account=ACCOUNT)
        ):
            del self._content[file_id]

    async def compensate(self, file_id: str, saga_id: str) -> None:
        if await self._attempt(file_id, ABSENT, lambda: compensate(self.store, file_id, saga_id)):
            self._content.pop(file_id, None)

    async def put_refused(self, size: int) -> None:
        """A put that is undone, since the catalog does not take its row."""
        file_id = str(uuid7())
        self.catalog.refuses.add(file_id)
        await self.put(size, file_id=file_id)

    async def confirm(self, file_id: str) -> None:
        """Durable with the next sync: that of a small put."""
        assert isinstance(self.journal, Journal)
        self.store.confirm([file_id])
        if await self.put(1) in self._content:
            self.journal.confirmed(file_id)

    async def refuse_compensation(self, file_id: str, saga_id: str) -> None:
        """An acknowledged file stays, whatever the catalog says of its saga."""
        if file_id in self._content:
            try:
                await compensate(self.store, file_id, saga_id)
            except ArtStoreError:
                return
            raise AssertionError("a confirmed file was removed")

    @property
    def file_ids(self) -> list[str]:
        return list(self._content)

    async def _attempt(self, file_id: str, state: State, step: Callable[[], Awaitable[object]]) -> bool:
        self.journal.begun(file_id, state)
        try:
            await step()
        except ArtStoreError:
            if self.store.disk_health.failure is None:
                self.journal.refused(file_id, state)
            return False
        self.journal.done(file_id, state)
        return True


async def every_verb(work: Work, size: int) -> None:
    """Each file is changed while the log still has its first revision, and again after a checkpoint."""
    kept, gone = await work.put(size), await work.put(size)
    for _ in range(2):
        await work.patch(kept)
        await work.patch(gone)
        await work.rewrite(kept, size + 1)
        await work.delete(gone)
        await attempt_checkpoint(work.store)
        gone = await work.put(size)


async def attempt_checkpoint(store: Store) -> None:
    try:
        await checkpoint(store)
    except ArtStoreError:
        pass


async def small(work: Work) -> None:
    await every_verb(work, SMALL_BYTES)


async def large(work: Work) -> None:
    await every_verb(work, LARGE_BYTES)


async def refused(work: Work) -> None:
    """Puts and rewrites that fail on the way, with and without the catalog knowing."""
    assert isinstance(work.catalog, KeptCatalog)
    kept = await work.put(SMALL_BYTES)
    for size in (SMALL_BYTES, LARGE_BYTES):
        work.catalog.away = True
        await work.put(size)
        work.catalog.away, work.catalog.fails_after = False, True
        await work.put(size)
        work.catalog.away = work.catalog.fails_after = False
        await settle_all(work.store)
    await work.put(
        LARGE_BYTES, body=Body(_cut_off(os.urandom(LARGE_BYTES - 1)), stated_bytes=LARGE_BYTES, max_bytes=MAX_BYTES)
    )
    await work.rewrite(kept, LARGE_BYTES, Expected(sha256=bytes(32)))
    await attempt_checkpoint(work.store)


async def confirmed(work: Work) -> None:
    """Files whose sagas were committed, in the log before and after a checkpoint; then a compensation of each is refused."""
    assert isinstance(work.catalog, KeptCatalog)
    sagas = {
        await work.put(size, saga_id): saga_id for size in (SMALL_BYTES, LARGE_BYTES) for saga_id in (str(uuid7()),)
    }
    work.store.confirm(sagas)
    try:
        await work.store.wal.rotate()
    except ArtStoreError:
        return  # the disk has failed: a confirmation that was not written is asked for again
    confirmed_of(Path(work.store.files.paths.root)).write_text(" ".join(sagas))
    for file_id, saga_id in sagas.items():
        await work.refuse_compensation(file_id, saga_id)
    await attempt_checkpoint(work.store)
    for file_id, saga_id in sagas.items():
        await work.refuse_compensation(file_id, saga_id)


async def undone_beside_checkpoints(work: Work) -> None:
    """Puts that the catalog refuses while checkpoints are being made, then settled beside another one."""
    assert isinstance(work.catalog, KeptCatalog)
    for size in (SMALL_BYTES, LARGE_BYTES):
        kept = await work.put(size)
        work.catalog.away = True
        await asyncio.gather(work.put(size), attempt_checkpoint(work.store), work.put(size))
        work.catalog.away = False
        await asyncio.gather(settle_all(work.store), attempt_checkpoint(work.store))
        await work.patch(kept)


async def compensated(work: Work) -> None:
    for size in (SMALL_BYTES, LARGE_BYTES):
        saga_id = str(uuid7())
        file_id = await work.put(size, saga_id)
        await work.compensate(file_id, saga_id)


async def unsettled(work: Work) -> None:
    """Changes while the catalog is unavailable: the intents stay open until it is back."""
    kept, gone = await work.put(SMALL_BYTES), await work.put(LARGE_BYTES)
    work.catalog.away = True
    await work.patch(kept)
    await work.rewrite(kept, LARGE_BYTES)
    await work.delete(gone)
    await attempt_checkpoint(work.store)
    work.catalog.away = False
    await settle_all(work.store)


async def settled_late(work: Work) -> None:
    """Puts whose rows follow behind the answer, across a checkpoint: committed, without a commit, changed, undone, and while
    the catalog is unavailable."""
    assert isinstance(work.catalog, KeptCatalog)
    saga_id = str(uuid7())
    committed, changed = await work.put(SMALL_BYTES, settle_late=True), await work.put(SMALL_BYTES, settle_late=True)
    undone, _ = await work.put(SMALL_BYTES, saga_id, settle_late=True), await work.put(SMALL_BYTES, settle_late=True)
    await attempt_checkpoint(work.store)
    if committed in work.file_ids:
        attributes, _ = await load_attributes(work.store, committed)
        await work.catalog.note(attributes, saga_id=None, change="put")
    await work.patch(changed)
    await work.compensate(undone, saga_id)
    await settle_late_rows(work.store)
    await work.put(SMALL_BYTES, settle_late=True)
    work.catalog.away = True
    await settle_late_rows(work.store)
    await work.put(SMALL_BYTES, settle_late=True)
    work.catalog.away = False
    await attempt_checkpoint(work.store)
    await settle_all(work.store)


async def resumable(work: Work) -> None:
    """An upload in three requests, the second of which breaks off; a wrong checksum; a put that is undone; a removal."""
    assert isinstance(work.catalog, KeptCatalog)
    root, content = Path(work.store.files.paths.root), work.bytes(LARGE_BYTES)
    uploads, known = Uploads(work.store, TTL_S), NewUpload(new=new_file(), length=LARGE_BYTES)
    try:
        upload = await uploads.create("account", known)
        uploaded_of(root).write_bytes(content)
        await append_to(uploads, upload, content[:30_000])
        offset_of(root).write_text(str(upload.record.offset))
        for broken, checksum in ((_cut_off(content[30_000:50_000]), None), (chunks_of(b"wrong"), Checksum("md5", b""))):
            with suppress(Malformed, ChecksumMismatch):
                order = AppendOrder(upload.record.offset, checksum=checksum)
                await append(uploads, upload, order, partial(_body, broken))
        await append_to(uploads, upload, content[upload.record.offset :])
        offset_of(root).write_text(str(upload.record.offset))
        removed = await uploads.create("account", known)
        await append_to(uploads, removed, content[:100])
        await uploads.remove(removed)
        work.catalog.away = True
        await work.complete(uploads, upload, content)
        work.catalog.away = False
        await settle_all(work.store)
        await work.complete(uploads, upload, content)
    except ArtStoreError:
        work.catalog.away = False  # the disk refuses


async def append_to(uploads: Uploads, upload: Upload, content: bytes) -> None:
    await append(uploads, upload, AppendOrder(upload.record.offset), partial(_body, chunks_of(content)))


def _body(chunks: AsyncIterator[bytes], max_bytes: int) -> Body:
    return Body(chunks, stated_bytes=None, max_bytes=max_bytes)


SCENARIOS: dict[str, Callable[[Work], Awaitable[None]]] = {
    "small": small,
    "large": large,
    "refused": refused,
    "compensated": compensated,
    "confirmed": confirmed,
    "undone_beside_checkpoints": undone_beside_checkpoints,
    "unsettled": unsettled,
    "settled_late": settled_late,
    "resumable": resumable,
}


async def _cut_off(content: bytes) -> AsyncIterator[bytes]:
    async for chunk in chunks_of(content):
        yield chunk
    raise Malformed("the body was cut off")

"""Append: one PATCH of a resumable upload, from its body to an offset that survives a power cut.

1 bytes beyond the record's offset are cut off, 2 the body is written, 3 synced, 4 the record with the new offset replaces
the old one. A body that breaks off counts up to its last byte; one with a checksum counts whole or not at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from artstore.contracts.uploads import Checksum
from artstore.errors import ChecksumMismatch, Conflict, Malformed, TooLarge, UploadLocked
from artstore.failpoints import failpoint
from artstore.tasks import spawn

from . import durable
from .locks import Stoppable
from .receive import PIECE_BYTES, WRITE_BEHIND_BYTES, Body
from .unfinished import Record, Upload, Uploads

FLUSH_EVERY_S = 1.0
"""A slow body is written at least this often."""
SYNC_BYTES, SYNC_EVERY_S = 64 << 20, 5.0
"""How much of a running PATCH a crash may cost."""


@dataclass(frozen=True, slots=True)
class AppendOrder:
    """`length` is the Upload-Length of an upload that was created without one."""

    offset: int
    length: int | None = None
    checksum: Checksum | None = None


async def append(uploads: Uploads, upload: Upload, order: AppendOrder, open_body: Callable[[int], Body]) -> None:
    """Durable when it returns. `open_body` makes the body with a limit in bytes, once the order is accepted.

    Raises UploadLocked, Conflict (another offset), ChecksumMismatch, TooLarge, Malformed, TooSlow, StorageFull.
    """
    if upload.record.committed and upload.record.offset == order.offset:
        open_body(0)
        return  # a repeat of the last PATCH
    if upload.lock.locked():
        raise UploadLocked("another request works on this upload")
    operation = AppendOperation(uploads, upload, order)
    await uploads.store.complete(operation.run(open_body), operation)


class AppendOperation(Stoppable):
    """One PATCH. `run` must not be cancelled (`Store.complete`); `stop` ends the wait for the sender."""

    def __init__(self, uploads: Uploads, upload: Upload, order: AppendOrder) -> None:
        super().__init__(None)
        self._uploads, self._store, self._upload, self._order = uploads, uploads.store, upload, order
        self._length = upload.record.length if upload.record.length is not None else order.length
        self._digest: Any = hashlib.new(order.checksum.algorithm, usedforsecurity=False) if order.checksum else None
        self._body: Body
        self._fd = -1
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._position = order.offset
        """The end of what was handed to a write."""
        self._synced_bytes = order.offset
        self._now_s = asyncio.get_running_loop().time
        self._written_s = self._synced_s = self._now_s()
        self._job: asyncio.Task[None] | None = None
        self._failed = False
        self._ended = False

    async def run(self, open_body: Callable[[int], Body]) -> None:
        upload, store = self._upload, self._store
        async with upload.lock:
            self._check()
            store.disk_health.require_writable()
            limit = self._length if self._length is not None else store.limits.max_file_bytes
            self._body = open_body(limit - self._position)
            store.receiving[upload.id] = upload.appending = self
            try:
                await self._append()
            except OSError as error:
                raise store.disk_health.explain(error) from error
            except Conflict as error:
                if self.stopped:
                    raise UploadLocked("another request has taken this upload over") from error
                raise
            finally:
                del store.receiving[upload.id]
                upload.appending = None
                upload.used_s = store.clock.monotonic_s()

    def _check(self) -> None:
        record, order = self._upload.record, self._order
        if order.offset != record.offset:
            raise Conflict(f"the upload continues at offset {record.offset}", offset=record.offset)
        if order.length is not None and order.length != self._length:
            raise Malformed(f"the length of this upload is {self._length}")
        limit = self._store.limits.max_file_bytes
        if self._length is not None and not record.offset <= self._length <= limit:
            raise TooLarge(f"Upload-Length must be from {record.offset} to {limit}")

    async def _append(self) -> None:
        upload, reservation = self._upload, self._upload.reservation
        reservation.ensure(self._length - self._position if self._length is not None else self._body.stated_bytes or 0)
        self._fd = await self._store.in_thread(durable.open_existing, self._store.files.paths.upload(upload.id))
        try:
            # 1. Cut off what an earlier PATCH left beyond the offset.
            await self._cut_off()
            try:
                # 2. to 4. again and again while the body arrives.
                await self._receive()
                self._ended = True
            finally:
                await self._end()
        finally:
            os.close(self._fd)

    async def _receive(self) -> None:
        """One chunk at a time: what has arrived is kept when the next chunk does not come."""
        while not self._body.ended:
            try:
                for piece in await self.wait_for(self._body.gather(1)):
                    self._waiting.append(piece)
                    self._waiting_bytes += len(piece)
            except TooLarge:
                self._failed = True  # not the file that was announced: only what is recorded stays
                raise
            if self._waiting_bytes >= PIECE_BYTES or self._now_s() - self._written_s >= FLUSH_EVERY_S:
                await self._write(record=self._is_record_due())

    def _is_record_due(self) -> bool:
        """Never at the last byte: the upload is complete only when its body is seen to end there."""
        end = self._position + self._waiting_bytes
        if self._digest is not None or end == self._length:
            return False
        return end - self._synced_bytes >= SYNC_BYTES or self._now_s() - self._synced_s >= SYNC_EVERY_S

    async def _end(self) -> None:
        """Make durable what was received, or discard what must not count."""
        try:
            if self._failed:
                return
            if self._order.checksum is not None:
                await self._write(record=False)
                await self._finish_job()
                if not self._ended:
                    return
                if self._digest.digest() != self._order.checksum.digest:
                    raise ChecksumMismatch(f"the {self._order.checksum.algorithm} of the bytes does not match")
            if self._ended or self._position + self._waiting_bytes > self._synced_bytes:
                await self._write(record=True)
                await self._finish_job()
        finally:
            await self._discard_rest()

    async def _write(self, *, record: bool) -> None:
        """Begin to write what waits, and with `record` to make it durable, while more comes in."""
        await self._finish_job()
        pieces, size, position = self._waiting, self._waiting_bytes, self._position
        self._waiting, self._waiting_bytes, self._position = [], 0, position + size
        if self._length is None:
            self._upload.reservation.ensure(size)
        advanced = None
        if record:
            advanced = self._uploads.advanced(self._upload.record, self._position, self._length)
        self._written_s = self._now_s()
        self._job = spawn("append", self._store.in_thread(self._make_durable, pieces, position, advanced))

    async def _finish_job(self) -> None:
        job, self._job = self._job, None
        if job is None:
            return
        try:
            await job
        except BaseException:
            self._failed = True
            raise
        written = self._position - self._upload.size_bytes
        self._upload.reservation.spend(written)
        self._uploads.resize(self._upload, self._position)

    def _make_durable(self, pieces: list[bytes], position: int, record: Record | None) -> None:
        begun = position
        for piece in pieces:
            self._upload.hash.update(position, piece)
            if self._digest is not None:
                self._digest.update(piece)
            position += len(piece)
        if pieces:
            durable.write_all(self._fd, pieces, begun)
            failpoint("resumable.written")
        if record is None:
            if begun // WRITE_BEHIND_BYTES != position // WRITE_BEHIND_BYTES:
                durable.start_writing(self._fd)
            return
        durable.sync_data(self._fd)
        failpoint("resumable.synced")
        self._uploads.write(record)
        failpoint("resumable.recorded")
        self._upload.record = record
        self._synced_bytes, self._synced_s = record.offset, self._now_s()

    async def _discard_rest(self) -> None:
        """Bytes that were written and do not count: of a wrong checksum, or after a failed write."""
        if self._job is not None:
            await asyncio.wait({self._job})
        if self._upload.hash.position > self._upload.record.offset:
            self._upload.hash.reset()
        if self._store.disk_health.failure is None:
            await self._cut_off()

    async def _cut_off(self) -> None:
        offset = self._upload.record.offset
        if self._upload.size_bytes != offset or self._failed:
            await self._store.in_thread(durable.truncate, self._fd, offset)
            self._uploads.resize(self._upload, offset)

"""The body of one put or rewrite while it comes in: hashed, counted against the free space, and stopped when it is not wanted.

Hash and write share one thread hop per MiB, while the next MiB is coming in.
"""

from __future__ import annotations

import asyncio
import hashlib
import os

from artstore.errors import DigestMismatch
from artstore.tasks import spawn

from . import durable
from .body import Body, Expected
from .locks import Stoppable
from .store import Store

PIECE_BYTES = 1 << 20
WRITE_BEHIND_BYTES = 8 << 20
"""After this much the kernel is asked to start writing: the final sync then has little left to do."""


class Digests:
    """SHA-256 always, MD5 only where the sender stated one."""

    __slots__ = ("_expected", "_md5", "_sha256")

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if expected.md5 is not None else None

    def update(self, piece: bytes) -> None:
        self._sha256.update(piece)
        if self._md5 is not None:
            self._md5.update(piece)

    def verified_sha256(self) -> str:
        """Raises DigestMismatch unless the digests are those that the sender stated."""
        if self._expected.sha256 is not None and self._sha256.digest() != self._expected.sha256:
            raise DigestMismatch("the body's SHA-256 does not match the stated digest", actual=self._sha256.hexdigest())
        if self._md5 is not None and self._md5.digest() != self._expected.md5:
            raise DigestMismatch("the body's MD5 does not match the stated digest")
        return self._sha256.hexdigest()


class IncomingBody(Stoppable):
    """`with`: registered at the store, so that a compensation can stop it; errors of the disk leave it as typed errors."""

    __slots__ = ("_body", "_digests", "_file_id", "_head", "_reservation", "_store")

    def __init__(self, store: Store, file_id: str, body: Body, expected: Expected, saga_id: str | None = None) -> None:
        super().__init__(saga_id)
        self._store, self._file_id, self._body = store, file_id, body
        self._digests = Digests(expected)
        self._reservation = store.space.reservation()
        self._head: list[bytes] = []

    def __enter__(self) -> None:
        self._store.receiving[self._file_id] = self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        del self._store.receiving[self._file_id]
        self._reservation.release()
        if isinstance(error, OSError):
            raise self._store.disk_health.explain(error) from error

    @property
    def size_bytes(self) -> int:
        return self._body.seen_bytes

    @property
    def is_small(self) -> bool:
        """The whole body is in memory."""
        return self._body.ended and self._body.seen_bytes <= self._store.limits.small_bytes

    async def receive_head(self) -> None:
        """Reserves the stated size, and reads a small body whole, or the beginning of a large one. Raises StorageFull."""
        self._reservation.ensure(self._body.stated_bytes or 0)
        self._head = await self.wait_for(self._body.gather(self._store.limits.small_bytes + 1))

    def take_small(self) -> bytes:
        """The bytes of a small body, hashed."""
        data = b"".join(self._head)
        self._digests.update(data)
        return data

    def reserve(self, size_bytes: int) -> None:
        """Raises StorageFull."""
        self._reservation.ensure(size_bytes)

    def verified_sha256(self) -> str:
        """The digest of the whole body. Raises DigestMismatch."""
        return self._digests.verified_sha256()

    async def write_to(self, path: str) -> None:
        """Write the whole body to a new file, not synced.

        This is the one owner of the descriptor: no write is left behind when it ends, however it ends.
        """
        fd = await self._store.in_thread(durable.create, path)
        writing: asyncio.Task[None] | None = None
        pieces = self._head
        written = 0
        try:
            while pieces:
                if writing is not None:
                    await writing
                size_bytes = sum(map(len, pieces))
                self._reservation.ensure(size_bytes + self._remaining_bytes())
                writing = spawn("write", self._store.in_thread(self._write, fd, written, pieces))
                self._reservation.spend(size_bytes)
                written += size_bytes
                pieces = await self.wait_for(self._body.gather(PIECE_BYTES))
        finally:
            if writing is not None:
                await asyncio.wait({writing})  # the error that ended the loop is raised, not a second one of the write
            os.close(fd)
        if writing is not None:
            writing.result()

    def _write(self, fd: int, written: int, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._digests.update(piece)
        durable.write_all(fd, pieces)
        if written % WRITE_BEHIND_BYTES < PIECE_BYTES:
            durable.start_writing(fd)

    def _remaining_bytes(self) -> int:
        return 0 if self._body.stated_bytes is None else max(0, self._body.stated_bytes - self._body.seen_bytes)

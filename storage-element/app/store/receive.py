"""The body of one put or rewrite while it comes in: hashed, counted against the free space, and stopped when it is not wanted.

Hash and write share one thread hop per MiB, while the next MiB is coming in.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

from artstore.errors import DigestMismatch, Malformed, TooLarge
from artstore.tasks import spawn

from . import durable
from .locks import Stoppable
from .store import Store

PIECE_BYTES = 1 << 20
WRITE_BEHIND_BYTES = 8 << 20
"""After this much the kernel is asked to start writing: the final sync then has little left to do."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Digests that the sender stated, as raw bytes; None where it stated none."""

    sha256: bytes | None = None
    md5: bytes | None = None


class Body:
    """A body as it arrives: chunks gathered to a size that is worth a thread hop, within limits.

    `stated_bytes` is the Content-Length, None when the sender gave none.
    """

    __slots__ = ("_chunks", "_max_bytes", "at_most_bytes", "ended", "received", "seen_bytes", "stated_bytes")

    def __init__(self, chunks: AsyncIterator[bytes], *, stated_bytes: int | None, max_bytes: int) -> None:
        self._chunks = chunks
        self._max_bytes = max_bytes
        self.stated_bytes = stated_bytes
        self.at_most_bytes = stated_bytes or 0
        """For this much there must be space at the beginning."""
        self.seen_bytes = 0
        self.ended = False
        self.received: bytes | None = None
        """The whole body, where it came as one piece: then there is nothing to gather."""
        if stated_bytes is not None and stated_bytes > max_bytes:
            raise _too_large(max_bytes)

    @classmethod
    def whole(cls, content: bytes, *, max_bytes: int) -> Body:
        """A body that has been received. Raises TooLarge."""
        body = cls(_nothing(), stated_bytes=len(content), max_bytes=max_bytes)
        body.received, body.seen_bytes, body.ended = content, len(content), True
        return body

    async def gather(self, min_bytes: int) -> list[bytes]:
        """Chunks of together at least `min_bytes`, or fewer at the end (`ended`). Raises TooLarge, Malformed."""
        pieces: list[bytes] = []
        gathered = 0
        while gathered < min_bytes and not self.ended:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                self._end()
            elif chunk:
                pieces.append(chunk)
                gathered += len(chunk)
                self.seen_bytes += len(chunk)
                if self.seen_bytes > self._max_bytes:
                    raise _too_large(self._max_bytes)
        return pieces

    def _end(self) -> None:
        self.ended = True
        if self.stated_bytes is not None and self.seen_bytes != self.stated_bytes:
            raise Malformed(f"the body has {self.seen_bytes} bytes, but {self.stated_bytes} were stated")


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"larger than the limit of {max_bytes} bytes for a file", max_bytes=max_bytes)


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

    __slots__ = ("_body", "_digests", "_file_id", "_head", "_reservation", "_store", "_written_bytes")

    def __init__(self, store: Store, file_id: str, body: Body, expected: Expected, saga_id: str | None = None) -> None:
        super().__init__(saga_id)
        self._store, self._file_id, self._body = store, file_id, body
        self._digests = Digests(expected)
        self._reservation = store.space.reservation()
        self._written_bytes = 0
        self._head: list[bytes] = []

    def __enter__(self) -> None:
        self._store.receiving[self._file_id] = self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        del self._store.receiving[self._file_id]
        self._reservation.release()
        self._store.space.temp_bytes -= self._written_bytes
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
        self._store.space.require(self._body.at_most_bytes)
        self._reservation.ensure(self._body.stated_bytes or 0)
        if self._body.received is not None:
            self._head = [self._body.received]
            return
        self._head = await self.wait_for(self._body.gather(self._store.limits.small_bytes + 1))

    def take_small(self) -> bytes:
        """The bytes of a small body, hashed."""
        data = self._head[0] if len(self._head) == 1 else b"".join(self._head)
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
        try:
            while pieces:
                if writing is not None:
                    await writing
                size_bytes = sum(map(len, pieces))
                self._reservation.ensure(size_bytes + self._remaining_bytes())
                writing = spawn("write", self._store.in_thread(self._write, fd, self._written_bytes, pieces))
                self._reservation.spend(size_bytes)
                self._store.space.temp_bytes += size_bytes
                self._written_bytes += size_bytes
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

"""A large body on its way to its temp: hash and write share one thread hop per MiB, while the next MiB is coming in."""

from __future__ import annotations

import asyncio
import hashlib
import os

from artstore.errors import DigestMismatch
from artstore.tasks import spawn

from . import durable
from .body import Body, Expected
from .locks import Running
from .space import Reservation
from .store import Store

PIECE_BYTES = 1 << 20
WRITE_BEHIND_BYTES = 8 << 20
"""How often the kernel is asked to start writing: the final sync then has little left to do."""


class Hasher:
    """SHA-256 always, MD5 only where the sender stated one."""

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if expected.md5 is not None else None

    def add(self, piece: bytes) -> None:
        self._sha256.update(piece)
        if self._md5 is not None:
            self._md5.update(piece)

    def sha256_if_as_stated(self) -> str:
        """Raises DigestMismatch."""
        if self._expected.sha256 is not None and self._sha256.digest() != self._expected.sha256:
            raise DigestMismatch("the body's SHA-256 is another than stated", actual=self._sha256.hexdigest())
        if self._md5 is not None and self._md5.digest() != self._expected.md5:
            raise DigestMismatch("the body's MD5 is another than stated")
        return self._sha256.hexdigest()


async def take_into(
    store: Store, path: str, head: list[bytes], body: Body, running: Running, reservation: Reservation, hasher: Hasher
) -> None:
    """Fill a new file at `path` with `head` and the rest of `body`. Not synced; step 3 does that.

    The one owner of the descriptor: no write is left behind when this ends, however it ends.
    """
    fd = await store.in_thread(durable.create, path)
    writing: asyncio.Task[None] | None = None
    pieces = head
    written = 0
    try:
        while pieces:
            if writing is not None:
                await writing
            size_bytes = sum(map(len, pieces))
            reservation.ensure(size_bytes + _to_come(body))
            writing = spawn("write", store.in_thread(_write, fd, written, pieces, hasher))
            reservation.spend(size_bytes)
            written += size_bytes
            async with running.stoppable():
                pieces = await body.gather(PIECE_BYTES)
    finally:
        if writing is not None:
            await asyncio.wait({writing})  # its failure would be the second one: what ended the loop is raised
        os.close(fd)
    if writing is not None:
        writing.result()


def _write(fd: int, written: int, pieces: list[bytes], hasher: Hasher) -> None:
    for piece in pieces:
        hasher.add(piece)
    durable.write_all(fd, pieces)
    if written % WRITE_BEHIND_BYTES < PIECE_BYTES:
        durable.start_writing(fd)


def _to_come(body: Body) -> int:
    return 0 if body.stated_bytes is None else max(0, body.stated_bytes - body.seen_bytes)

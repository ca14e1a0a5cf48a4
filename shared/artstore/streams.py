"""Streams of bytes between sockets and disk, in pieces large enough that what is done per piece does not matter."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator

PIECE_BYTES = 1 << 20
"""A thread hop costs about 100 µs, whatever it does: one per MiB is lost in the noise."""


async def collected(
    source: AsyncIterator[bytes], piece_bytes: int = PIECE_BYTES, *, flush_every_s: float | None = None
) -> AsyncIterator[bytes]:
    """The same bytes in pieces of at least `piece_bytes`, but for the last. Empty input gives no piece.

    With `flush_every_s` a chunk that comes so long after the last piece ends the piece: what comes slowly is passed on in the
    rhythm it comes in.
    """
    last_s = -math.inf
    waiting: list[bytes] = []
    length = 0
    async for chunk in source:
        if not chunk:
            continue
        waiting.append(chunk)
        length += len(chunk)
        if length >= piece_bytes or (flush_every_s is not None and time.monotonic() - last_s >= flush_every_s):
            last_s = time.monotonic()
            yield waiting[0] if len(waiting) == 1 else b"".join(waiting)
            waiting, length = [], 0
    if waiting:
        yield b"".join(waiting)

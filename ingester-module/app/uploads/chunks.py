"""Merges the small chunks of a socket into pieces large enough that the work per piece does not matter."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator


async def merge_chunks(
    source: AsyncIterator[bytes], piece_bytes: int, *, flush_every_s: float | None = None
) -> AsyncIterator[bytes]:
    """The same bytes in pieces of at least `piece_bytes`, except for the last one. Empty input gives no piece.

    With `flush_every_s` a chunk also completes the piece when the last piece was given at least that long ago, so the bytes of
    a slow sender are passed on as they arrive.
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

"""Streams of bytes between sockets and disk, in pieces large enough that what is done per piece does not matter."""

from __future__ import annotations

from collections.abc import AsyncIterator

PIECE_BYTES = 1 << 20
"""A thread hop costs about 100 µs, whatever it does: one per MiB is lost in the noise."""


async def collected(source: AsyncIterator[bytes], piece_bytes: int = PIECE_BYTES) -> AsyncIterator[bytes]:
    """The same bytes in pieces of at least `piece_bytes`, but for the last. Empty input gives no piece."""
    waiting: list[bytes] = []
    length = 0
    async for chunk in source:
        if not chunk:
            continue
        waiting.append(chunk)
        length += len(chunk)
        if length >= piece_bytes:
            yield waiting[0] if len(waiting) == 1 else b"".join(waiting)
            waiting, length = [], 0
    if waiting:
        yield b"".join(waiting)

"""A body as it arrives: chunks gathered to a size that is worth a thread hop, with the limits on it enforced."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from artstore.errors import Malformed, TooLarge


@dataclass(frozen=True, slots=True)
class Expected:
    """Digests that the sender stated, as raw bytes; None where it stated none."""

    sha256: bytes | None = None
    md5: bytes | None = None


class Body:
    """`stated_bytes` is the Content-Length, None when the sender gave none."""

    __slots__ = ("_chunks", "_max_bytes", "ended", "seen_bytes", "stated_bytes")

    def __init__(self, chunks: AsyncIterator[bytes], *, stated_bytes: int | None, max_bytes: int) -> None:
        self._chunks = chunks
        self._max_bytes = max_bytes
        self.stated_bytes = stated_bytes
        self.seen_bytes = 0
        self.ended = False
        if stated_bytes is not None and stated_bytes > max_bytes:
            raise _too_large(max_bytes)

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


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"larger than the limit of {max_bytes} bytes for a file", max_bytes=max_bytes)

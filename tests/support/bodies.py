"""Bodies made on the way: incompressible, all different, and as large as one likes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

PIECE = 1 << 20


class Body:
    """`size_bytes` of bytes that begin with a random block; `sha256` is known once it has been read to its end."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._block = os.urandom(min(size_bytes, PIECE) + 8)
        self._hash = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        left, number = self.size_bytes, 0
        while left:
            piece = (number.to_bytes(8, "big") + self._block)[: min(left, PIECE)]
            self._hash.update(piece)
            left -= len(piece)
            number += 1
            yield piece

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def sha256_of(chunks: Iterator[bytes]) -> tuple[str, int]:
    """Hex digest and length."""
    seen, length = hashlib.sha256(), 0
    for chunk in chunks:
        seen.update(chunk)
        length += len(chunk)
    return seen.hexdigest(), length

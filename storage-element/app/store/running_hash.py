"""The SHA-256 of an upload that arrives in several requests, kept in memory and read again from the disk when it was lost."""

from __future__ import annotations

import hashlib

READ_BYTES = 4 << 20


class RunningHash:
    """Covers the first `position` bytes of the file. Its callers hold the upload's lock."""

    __slots__ = ("_path", "_sha256", "position")

    def __init__(self, path: str) -> None:
        self._path = path
        self.reset()

    def reset(self) -> None:
        self._sha256, self.position = hashlib.sha256(), 0

    def update(self, position: int, piece: bytes) -> None:
        """Counts a piece only where it continues what is hashed; `read_to` reads what was left out."""
        if position == self.position:
            self._sha256.update(piece)
            self.position += len(piece)

    def read_to(self, end: int) -> str:
        """The digest of the first `end` bytes. Blocks, long when much was lost. Raises OSError."""
        if self.position > end:
            self.reset()
        with open(self._path, "rb") as file:
            file.seek(self.position)
            while self.position < end:
                piece = file.read(min(READ_BYTES, end - self.position))
                if not piece:
                    raise OSError(f"the data of the upload ends at {self.position}, before {end}")
                self.update(self.position, piece)
        return self._sha256.hexdigest()

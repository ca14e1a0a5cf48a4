"""A count of the disk while puts and deletes go on: what changes in a folder after it was counted is added on the way."""

from __future__ import annotations

from .paths import folder_of


class Counting:
    """A folder is `take`n only when none of its files was locked while it was read: each change is counted exactly once."""

    __slots__ = ("_taken", "bytes_used", "files")

    def __init__(self) -> None:
        self.files = 0
        self.bytes_used = 0
        self._taken: set[str] = set()

    def add(self, file_id: str, files: int, size_bytes: int) -> None:
        """A change just made. In a folder not read yet the reading will see it."""
        if folder_of(file_id) in self._taken:
            self.files += files
            self.bytes_used += size_bytes

    def has(self, folder: str) -> bool:
        return folder in self._taken

    def take(self, folder: str, files: int, size_bytes: int) -> None:
        self._taken.add(folder)
        self.files += files
        self.bytes_used += size_bytes

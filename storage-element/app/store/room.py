"""Who may take how much of the disk: bytes in flight are counted before they are written."""

from __future__ import annotations

import os
import time

from artstore.errors import StorageFull

from ..capacity import Reserve, Space, available_bytes
from .counting import Counting

LOOK_EVERY_S = 0.05
"""What others write to the same disk in this time must fit into the reserve."""


class Usage:
    """Files and bytes kept, moved by each put and delete, carried from start to start by the checkpoints.

    Not `exact` after a start that found more in the log than a checkpoint, until the disk has been counted again.
    """

    __slots__ = ("bytes_used", "counting", "exact", "files")

    def __init__(self) -> None:
        self.files = 0
        self.bytes_used = 0
        self.exact = True
        self.counting: Counting | None = None

    def add(self, file_id: str, files: int, size_bytes: int) -> None:
        """The file's lock is held: a count of the disk that is under way relies on it."""
        self.files = max(0, self.files + files)
        self.bytes_used = max(0, self.bytes_used + size_bytes)
        if self.counting is not None:
            self.counting.add(file_id, files, size_bytes)

    def take_over(self, files: int, bytes_used: int, *, exact: bool) -> None:
        self.files, self.bytes_used, self.exact = files, bytes_used, exact


class Claim:
    """What one put has been promised and not yet written."""

    __slots__ = ("_room", "left_bytes")

    def __init__(self, room: Room) -> None:
        self._room = room
        self.left_bytes = 0

    def ensure(self, size_bytes: int) -> None:
        """Raises StorageFull when the disk cannot take that much more."""
        if size_bytes > self.left_bytes:
            self._room.take(size_bytes - self.left_bytes)
            self.left_bytes = size_bytes

    def spend(self, size_bytes: int) -> None:
        """These bytes stand on the disk now, and the disk counts them itself."""
        spent = min(size_bytes, self.left_bytes)
        self._room.in_flight_bytes -= spent
        self._room.spent_bytes += spent
        self.left_bytes -= spent

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.spend(self.left_bytes)


class Room:
    """`quota_bytes` bounds an element that shares its disk with others."""

    def __init__(
        self, root: str, reserve: Reserve, usage: Usage, quota_bytes: int | None = None, *, files_here: bool = True
    ) -> None:
        self._root = root
        self._usage = usage
        self._quota_bytes = quota_bytes
        self._files_here = files_here
        self.reserve = reserve
        self.in_flight_bytes = 0
        self.spent_bytes = 0
        """Written since the last look at the disk."""
        self._looked = Space(0, 0)
        self._looked_s = 0.0

    def look(self) -> Space:
        disk = os.statvfs(self._root)
        total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        inodes = disk.f_favail if disk.f_files else None
        if not self._files_here:
            # A bucket has no size to ask for: beside a quota, what bounds a put is the disk that its body waits on.
            total = self._quota_bytes or self._usage.bytes_used + free
        if self._quota_bytes is not None and self._quota_bytes <= total:
            return Space(self._quota_bytes, min(free, max(0, self._quota_bytes - self._usage.bytes_used)), inodes)
        return Space(total, free, inodes)

    def available_bytes(self) -> int:
        return available_bytes(self.look(), self.reserve, self.in_flight_bytes)

    def take(self, size_bytes: int) -> None:
        """Raises StorageFull, never on an old look."""
        now_s = time.monotonic()
        if now_s - self._looked_s > LOOK_EVERY_S or size_bytes > self._left():
            self._looked, self._looked_s, self.spent_bytes = self.look(), now_s, 0
            if size_bytes > self._left():
                raise StorageFull(f"{size_bytes} bytes more do not fit", available_bytes=self._left())
        self.in_flight_bytes += size_bytes

    def claim(self) -> Claim:
        """`with`: what it was promised and did not write goes back."""
        return Claim(self)

    def _left(self) -> int:
        return available_bytes(self._looked, self.reserve, self.in_flight_bytes + self.spent_bytes)

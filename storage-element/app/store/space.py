"""Space on the disk: what the element keeps (`Usage`), what puts may still take (`Space`), and what each has been promised
(`Reservation`). Bytes in flight are counted before they are written.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from artstore.contracts.elements import Fill
from artstore.errors import StorageFull

from .paths import FAN_OUT, folder_of

STATVFS_EVERY_S = 0.05
"""The reserve must hold what other programs write to the same disk in this time."""
WARNING_AT, CRITICAL_AT = 0.80, 0.95
"""Used shares from which a report calls the element's fill a warning or critical."""
RESERVE_SHARE = 0.01
RESERVE_BYTES = (256 << 20, 10 << 30)
"""Least and most bytes of the default reserve."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """Space that no put may take. `bytes` None: RESERVE_SHARE of the disk, within RESERVE_BYTES."""

    bytes: int | None = None
    inodes: int = 1024


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """The disk (or the quota) at one moment."""

    total_bytes: int
    free_bytes: int
    free_inodes: int | None = None
    """None: the file system does not count them."""


def reserved_bytes(total_bytes: int, reserve: Reserve) -> int:
    """At most half of the disk, so that a small disk is not reserved as a whole."""
    least, most = RESERVE_BYTES
    share = min(max(least, int(total_bytes * RESERVE_SHARE)), most)
    return min(share if reserve.bytes is None else reserve.bytes, total_bytes // 2)


def available_bytes(disk: DiskSpace, reserve: Reserve, in_flight_bytes: int) -> int:
    """The bytes that puts may still take, never below 0."""
    if disk.free_inodes is not None and disk.free_inodes <= reserve.inodes:
        return 0
    return max(0, disk.free_bytes - reserved_bytes(disk.total_bytes, reserve) - in_flight_bytes)


class Recount:
    """A count of the disk while puts and deletes go on.

    `add_folder` is called only when no file of the folder was locked while it was read. `change` then counts what changes in
    folders already added, so that each change is counted exactly once.
    """

    __slots__ = ("_added", "bytes_used", "files")

    def __init__(self) -> None:
        self.files = 0
        self.bytes_used = 0
        self._added = bytearray(len(FAN_OUT) ** 2)  # a set of names would take 7 MB, which the process keeps

    def change(self, file_id: str, files: int, size_bytes: int) -> None:
        if self.has(folder_of(file_id)):
            self.files += files
            self.bytes_used += size_bytes

    def has(self, folder: str) -> bool:
        return bool(self._added[_number_of(folder)])

    def add_folder(self, folder: str, files: int, size_bytes: int) -> None:
        self._added[_number_of(folder)] = True
        self.files += files
        self.bytes_used += size_bytes


def _number_of(folder: str) -> int:
    """The number of a folder as `folder_of` names it."""
    return int(folder.replace("/", ""), 16)


class Usage:
    """Files and bytes kept: changed by each put and delete, carried from start to start by the checkpoints.

    Not `exact` from a start that found operations after the last checkpoint until the disk has been counted again.
    """

    __slots__ = ("bytes_used", "exact", "files", "recount")

    def __init__(self) -> None:
        self.files = 0
        self.bytes_used = 0
        self.exact = True
        self.recount: Recount | None = None

    def add(self, file_id: str, files: int, size_bytes: int) -> None:
        """The caller holds the file's lock: a recount in progress relies on it."""
        self.files = max(0, self.files + files)
        self.bytes_used = max(0, self.bytes_used + size_bytes)
        if self.recount is not None:
            self.recount.change(file_id, files, size_bytes)

    def replace(self, files: int, bytes_used: int, *, exact: bool) -> None:
        self.files, self.bytes_used, self.exact = files, bytes_used, exact


class Reservation:
    """The bytes that one put has been promised and has not written yet."""

    __slots__ = ("_space", "left_bytes")

    def __init__(self, space: Space) -> None:
        self._space = space
        self.left_bytes = 0

    def ensure(self, size_bytes: int) -> None:
        """Raises StorageFull when the disk cannot take that much more."""
        if size_bytes > self.left_bytes:
            self._space.take(size_bytes - self.left_bytes)
            self.left_bytes = size_bytes

    def spend(self, size_bytes: int) -> None:
        """These bytes are written, so the file system counts them itself."""
        spent = min(size_bytes, self.left_bytes)
        self._space.in_flight_bytes -= spent
        self._space.spent_bytes += spent
        self.left_bytes -= spent

    def release(self) -> None:
        """Return what was promised and not written."""
        self.spend(self.left_bytes)


class Space:
    """`quota_bytes` bounds an element that shares its disk. `local_files` False: the files are in a bucket, and the disk only
    holds the log and temps."""

    def __init__(
        self, root: str, reserve: Reserve, usage: Usage, quota_bytes: int | None = None, *, local_files: bool = True
    ) -> None:
        self._root = root
        self._usage = usage
        self._quota_bytes = quota_bytes
        self._local_files = local_files
        self.reserve = reserve
        self.in_flight_bytes = 0
        self.staged_bytes = 0
        """The data of unfinished uploads, which `usage` does not count."""
        self.temp_bytes = 0
        """Written by puts and rewrites that have not ended, which `usage` does not count either."""
        self.spent_bytes = 0
        """Written since the disk was measured last."""
        self._measured = DiskSpace(0, 0)
        self._measured_s = 0.0

    def measure(self) -> DiskSpace:
        disk = os.statvfs(self._root)
        total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        inodes = disk.f_favail if disk.f_files else None
        if not self._local_files:
            # A bucket reports no size: without a quota, a put is bounded by the disk that buffers its body.
            total = self._quota_bytes or self._usage.bytes_used + free
        if self._quota_bytes is not None and self._quota_bytes <= total:
            used = self._usage.bytes_used + self.staged_bytes + self.temp_bytes
            return DiskSpace(self._quota_bytes, min(free, max(0, self._quota_bytes - used)), inodes)
        return DiskSpace(total, free, inodes)

    def available_bytes(self) -> int:
        return available_bytes(self.measure(), self.reserve, self.in_flight_bytes)

    def take(self, size_bytes: int) -> None:
        """Raises StorageFull."""
        self.require(size_bytes)
        self.in_flight_bytes += size_bytes

    def require(self, size_bytes: int) -> None:
        """Raises StorageFull when so much does not fit now, but never because of an old measurement."""
        now_s = time.monotonic()
        if now_s - self._measured_s > STATVFS_EVERY_S or size_bytes > self._left():
            self._measured, self._measured_s, self.spent_bytes = self.measure(), now_s, 0
            if size_bytes > self._left():
                raise StorageFull(
                    f"{size_bytes} bytes do not fit: {self._left()} are available", available_bytes=self._left()
                )

    def reservation(self) -> Reservation:
        """Call `release` at the end."""
        return Reservation(self)

    def _left(self) -> int:
        return available_bytes(self._measured, self.reserve, self.in_flight_bytes + self.spent_bytes)


def fill_of(total_bytes: int, available_bytes: int) -> Fill:
    if available_bytes <= 0 or total_bytes <= 0:
        return Fill.FULL
    used = 1 - available_bytes / total_bytes
    if used >= CRITICAL_AT:
        return Fill.CRITICAL
    return Fill.WARNING if used >= WARNING_AT else Fill.OK

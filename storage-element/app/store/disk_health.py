"""The meaning of a disk error: a full disk, one unreadable file, or an element that must not write any more."""

from __future__ import annotations

import errno

from artstore.errors import ArtStoreError, ElementFailed, FileDamaged, InternalError, StorageFull, Unavailable

from .durable import DiskFailed

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
BROKEN = frozenset({errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.EXDEV})
UNREACHABLE = frozenset({errno.EACCES, errno.ESTALE, errno.ENOTCONN})
"""The disk may be healthy, but this process cannot reach it; it may again, without a restart."""

NAME_REFUSED = frozenset(
    {
        errno.EPERM,
        errno.EACCES,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.EBUSY,
        errno.ELOOP,
        errno.ENAMETOOLONG,
    }
)
"""The operating system refuses one name: an immutable file, a folder under a file's name. The disk is healthy."""
NOT_THE_FILE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR})
"""This process lacks descriptors or memory: the file is not at fault."""


class FileUnreadable(FileDamaged):
    """The disk cannot read this file. A later try may succeed, so the file stays in place. `reason` is "unreadable"."""


def explain_read(error: OSError, file_id: str) -> ArtStoreError:
    """The typed error of a failed read. It concerns that file only: the element still takes writes."""
    if error.errno in NOT_THE_FILE:
        return Unavailable("the element cannot open more files at the moment")
    return FileUnreadable(f"the disk cannot read this file: {error.strerror}", file_id=file_id, reason="unreadable")


class DiskHealth:
    """Once `failure` is set, the element takes no writes until its next start. It still reads."""

    __slots__ = ("failure",)

    def __init__(self) -> None:
        self.failure: str | None = None

    def require_writable(self) -> None:
        """Raises ElementFailed."""
        if self.failure is not None:
            raise ElementFailed(f"the element is read-only: {self.failure}", reason=self.failure)

    def fail(self, reason: str) -> ElementFailed:
        """Makes the element read-only and returns the error to raise. The first reason is kept."""
        if self.failure is None:
            self.failure = reason
        return ElementFailed(f"the element is read-only: {self.failure}", reason=self.failure)

    def explain(self, error: OSError) -> ArtStoreError:
        """The typed error of a failed write or sync. A broken disk makes the element read-only here."""
        if isinstance(error, DiskFailed) or error.errno in BROKEN:
            return self.fail(str(error))
        if error.errno in DISK_FULL:
            return StorageFull("the disk is full")
        if error.errno in UNREACHABLE:
            return Unavailable(f"the element's disk cannot be reached: {error.strerror}")
        return InternalError(f"the disk refused the write: {error.strerror}")

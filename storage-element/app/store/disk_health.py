"""What an error of the disk means: no room, or an element that must not write any more."""

from __future__ import annotations

import errno

from artstore.errors import ArtStoreError, ElementFailed, FileDamaged, InternalError, StorageFull, Unavailable

from .durable import DiskFailed

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
BROKEN = frozenset({errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.EXDEV})
OUT_OF_REACH = frozenset({errno.EACCES, errno.ESTALE, errno.ENOTCONN})
"""The disk may be well, but this process does not get at it: it may be again, without a restart."""

OF_THE_NAME = frozenset(
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
"""Refusals of one name by the operating system: an immutable file, a folder under a file's name. The disk is well."""
NO_FAULT_OF_THE_FILE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR})


class FileUnreadable(FileDamaged):
    """The disk does not give this file; a later try may read it, so it stays where it is. `reason` says "unreadable"."""


def explain_read(error: OSError, file_id: str) -> ArtStoreError:
    """The typed error of a read. It concerns that file only: an element that reads badly still takes writes."""
    if error.errno in NO_FAULT_OF_THE_FILE:
        return Unavailable("the element cannot open more files at the moment")
    return FileUnreadable(f"the disk cannot read this file: {error.strerror}", file_id=file_id, reason="unreadable")


class DiskHealth:
    """Once `failure` is set the element takes no writes until it is started again. It goes on reading."""

    __slots__ = ("failure",)

    def __init__(self) -> None:
        self.failure: str | None = None

    def require_writable(self) -> None:
        """Raises ElementFailed."""
        if self.failure is not None:
            raise ElementFailed(f"the element is read-only: {self.failure}", reason=self.failure)

    def fail(self, reason: str) -> ElementFailed:
        """The first reason stays; returns the error to raise."""
        if self.failure is None:
            self.failure = reason
        return ElementFailed(f"the element is read-only: {self.failure}", reason=self.failure)

    def explain(self, error: OSError) -> ArtStoreError:
        """The typed error of a write or sync that failed; a broken disk makes the element read-only here."""
        if isinstance(error, DiskFailed) or error.errno in BROKEN:
            return self.fail(str(error))
        if error.errno in NO_ROOM:
            return StorageFull("the disk is full")
        if error.errno in OUT_OF_REACH:
            return Unavailable(f"the element's disk is out of reach: {error.strerror}")
        return InternalError(f"the disk refused: {error.strerror}")

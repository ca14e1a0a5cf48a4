"""What an error of the disk means: no room, or an element that must not write any more."""

from __future__ import annotations

import errno

from artstore.errors import ArtStoreError, ElementFailed, InternalError, StorageFull

from .durable import DiskFailed

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
BROKEN = frozenset({errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO})


class Failing:
    """Once `reason` is set the element takes no writes until it is started again. It goes on reading."""

    __slots__ = ("reason",)

    def __init__(self) -> None:
        self.reason: str | None = None

    def require_sound(self) -> None:
        """Raises ElementFailed."""
        if self.reason is not None:
            raise ElementFailed(f"the element is read-only: {self.reason}", reason=self.reason)

    def fail(self, reason: str) -> ElementFailed:
        """The first reason stays; returns the error to raise."""
        if self.reason is None:
            self.reason = reason
        return ElementFailed(f"the element is read-only: {self.reason}", reason=self.reason)

    def explain(self, error: OSError) -> ArtStoreError:
        """The typed error for one of the disk's; a broken disk makes the element read-only here."""
        if isinstance(error, DiskFailed) or error.errno in BROKEN:
            return self.fail(str(error))
        if error.errno in NO_ROOM:
            return StorageFull("the disk is full")
        return InternalError(f"the disk refused: {error.strerror}")

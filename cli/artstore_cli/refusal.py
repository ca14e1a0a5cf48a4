"""Why a command did not do what it was asked: one line for the user, and a non-zero exit code."""

from __future__ import annotations

import errno
from pathlib import Path


class Refused(Exception):
    """The text is the one line that the user sees."""


def refused_by_disk(error: OSError, place: Path) -> Refused:
    """The line for an error of the file system around `place`."""
    where = error.filename or place
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused(f"no space left on the disk of {where}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Refused(f"cannot write to {where}: {error.strerror}")
    return Refused(f"{where}: {error.strerror or error}")

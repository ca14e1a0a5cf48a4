"""The error of a command: one line for the user, and a non-zero exit code."""

from __future__ import annotations

import errno
from pathlib import Path


class CommandError(Exception):
    """The text is the line that the user sees."""


def disk_error(error: OSError, place: Path) -> CommandError:
    """The error for a failed file operation at `place`."""
    where = error.filename or place
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CommandError(f"no space left on the disk of {where}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CommandError(f"cannot write to {where}: {error.strerror}")
    return CommandError(f"{where}: {error.strerror or error}")

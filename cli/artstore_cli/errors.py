"""How a command fails: one line for the user, a hint what to do, and an exit code."""

from __future__ import annotations

import errno
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """All exit codes of the client commands. docs/cli.md explains them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    UNAVAILABLE = 4
    DENIED = 5
    NOT_FOUND = 6
    CONFLICT = 7
    DAMAGED = 8
    INTERRUPTED = 130
    CLOSED_PIPE = 141


class CommandError(Exception):
    """The text is the line that the user sees. `code` is a word for programs, as the codes of docs/errors.md."""

    def __init__(
        self, text: str, *, code: str = "failed", hint: str = "", exit_code: ExitCode = ExitCode.FAILED
    ) -> None:
        super().__init__(text)
        self.code, self.hint, self.exit_code = code, hint, exit_code


class UsageError(CommandError):
    """The options or arguments contradict each other."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text, code="usage", hint=hint, exit_code=ExitCode.USAGE)


class ClosedPipe(Exception):
    """The reader of standard output has ended, as in `artstore ls | head`."""


def disk_error(error: OSError, place: Path) -> CommandError:
    """The error for a failed file operation at `place`."""
    where = error.filename or place
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CommandError(f"no space left on the disk of {where}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CommandError(f"cannot write to {where}: {error.strerror}")
    return CommandError(f"{where}: {error.strerror or error}")

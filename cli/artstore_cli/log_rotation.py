"""Limits the size of each log while its process writes to it: copies the content and truncates the file.

The file stays the same, so that no process has to reopen it; all processes append. Lost are lines written in the microseconds
between the last read and the truncation, and lines beyond the size of a piece of a process that writes faster than the copy.
"""

from __future__ import annotations

import os
from pathlib import Path

MAX_BYTES = 10 * 1024 * 1024
KEPT = 2
"""Older pieces of each log: NAME.log.1 and NAME.log.2, each of at most two times MAX_BYTES: its last MAX_BYTES, and what was
written while these were copied. NAME.log itself grows to MAX_BYTES plus what is written between two checks (1 s)."""
COPY_BYTES = 1024 * 1024


def rotate(log: Path) -> bool:
    """Rotate the log if it is too large; returns whether it was. On a full disk the lines are dropped."""
    try:
        if log.stat().st_size <= MAX_BYTES:
            return False
        with log.open("r+b") as file:
            try:
                _copy_away(file.fileno(), log)
            finally:
                os.ftruncate(file.fileno(), 0)
    except OSError:
        return False
    return True


def _copy_away(descriptor: int, log: Path) -> None:
    """Copy the last MAX_BYTES of the log. The copy is bounded, so it ends however fast the log grows."""
    fresh = log.with_name(f"{log.name}.new")
    try:
        os.lseek(descriptor, -MAX_BYTES, os.SEEK_END)
        with fresh.open("wb") as copy:
            left = 2 * MAX_BYTES
            while piece := os.read(descriptor, min(left, COPY_BYTES)):
                copy.write(piece)
                left -= len(piece)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    for number in range(KEPT, 1, -1):
        older = log.with_name(f"{log.name}.{number - 1}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number}"))
    fresh.replace(log.with_name(f"{log.name}.1"))

"""Keeps each log below a size while its process writes to it: the content is copied away and the file cut to nothing.

The file itself stays, so that no process has to open it again; all of them append, so what they write next is at its begin.
Lines written in the microseconds between the last read and the cut are lost, and of a process that writes faster than its log is
copied those beyond the size of a piece.
"""

from __future__ import annotations

import os
from pathlib import Path

MAX_BYTES = 10 * 1024 * 1024
KEPT = 2
"""Older pieces of each log: NAME.log.1 and NAME.log.2, each of at most two times MAX_BYTES: its last MAX_BYTES, and what was
written while these were copied. NAME.log itself has MAX_BYTES, and what is written between two looks of the launcher (1 s)."""
COPY_BYTES = 1024 * 1024


def rotate(log: Path) -> bool:
    """Whether it was rotated. A disk that cannot take the copy costs the lines: a log must not fill what is left."""
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
    """Only the last MAX_BYTES of a log that grew faster than it was looked at. The copy ends, however fast the log grows."""
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

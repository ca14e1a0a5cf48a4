"""The files that a `put` names: single files, and folders with all that is below them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import UsageError

STDIN = "-"


@dataclass(frozen=True, slots=True)
class LocalFile:
    path: str
    """As it is shown: as given, or the given folder and the path below it."""
    size: int
    mtime_ns: int
    below: str = ""
    """The path below the folder that was given, with slashes."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something in a folder that is not stored."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    error: OSError
    path: str


Found = LocalFile | Skipped | Unreadable


def find_files(sources: Sequence[str]) -> Iterator[Found]:
    """In a stable order. A symlink that is named is followed; one in a folder is skipped, as are pipes and devices."""
    for source in sources:
        try:
            state = os.stat(source)
        except OSError as error:
            yield Unreadable(error, source)
            continue
        if stat.S_ISDIR(state.st_mode):
            yield from _below(source)
        elif stat.S_ISREG(state.st_mode):
            yield LocalFile(source, state.st_size, state.st_mtime_ns)
        else:
            reason = "neither a file nor a folder; pipe it into `artstore put -`"
            yield Unreadable(OSError(errno.EINVAL, reason, source), source)


def _below(folder: str) -> Iterator[Found]:
    unreadable = list[OSError]()
    for parent, folders, names in os.walk(folder, onerror=unreadable.append):
        yield from (Unreadable(error, str(error.filename or folder)) for error in unreadable)
        unreadable.clear()
        folders.sort()
        for name in list(folders):
            if os.path.islink(os.path.join(parent, name)):
                folders.remove(name)
                yield Skipped(os.path.join(parent, name), "a symlink")
        for name in sorted(names):
            yield _one(os.path.join(parent, name), folder)
    yield from (Unreadable(error, str(error.filename or folder)) for error in unreadable)


def _one(path: str, folder: str) -> Found:
    try:
        state = os.lstat(path)
    except OSError as error:
        return Unreadable(error, path)
    if stat.S_ISREG(state.st_mode):
        return LocalFile(path, state.st_size, state.st_mtime_ns, Path(path).relative_to(folder).as_posix())
    return Skipped(path, "a symlink" if stat.S_ISLNK(state.st_mode) else "not a regular file")


def check_sources(sources: Sequence[str], name: str | None) -> None:
    """Raises UsageError for arguments that contradict each other."""
    if STDIN in sources and len(sources) > 1:
        raise UsageError("- (standard input) must be the only argument")
    if name is not None and (len(sources) > 1 or Path(sources[0]).is_dir()):
        raise UsageError("--name is for one file")
    same = {os.path.abspath(source) for source in sources if source != STDIN}
    if STDIN not in sources and len(same) < len(sources):
        raise UsageError("a file or folder is named twice")

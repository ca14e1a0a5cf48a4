"""The only file that syncs, renames and unlinks. What it returns from is done; what it raises has not been retried.

A sync that fails raises DiskFailed: the kernel may have dropped the pages it could not write, and a second sync would
say yes to data that is gone (fsyncgate). So nobody retries it; the element turns itself read-only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

IOV_MAX = 1024
"""Buffers that one writev takes on Linux."""
SYNC_FILE_RANGE_WRITE = 2
FILE_MODE = 0o640
FOLDER_MODE = 0o750

AT_FDCWD, AT_SYMLINK_NOFOLLOW = -100, 0x100
STATX_INO, STATX_BTIME, STATX_CTIME = 0x100, 0x800, 0x80
STATX_BYTES = 256
STATX_TIME = struct.Struct("<qI")
STATX_INO_AT, STATX_BTIME_AT, STATX_CTIME_AT = 32, 80, 96
"""struct statx of linux/stat.h."""

_libc = ctypes.CDLL(None, use_errno=True)


class DiskFailed(OSError):
    """A sync reported an error: what was written before it may be lost."""


class Identity(NamedTuple):
    """Which file lies under a name: another one that is put in its place differs, even with the same bytes and times."""

    inode: int
    born_ns: int
    """When the inode was made; where the file system does not say, when it last changed."""


def identify(path: str) -> Identity | None:
    """None when nothing is there."""
    buffer = ctypes.create_string_buffer(STATX_BYTES)
    wanted = STATX_INO | STATX_BTIME | STATX_CTIME
    if _libc.statx(AT_FDCWD, os.fsencode(path), AT_SYMLINK_NOFOLLOW, wanted, buffer) != 0:
        number = ctypes.get_errno()
        if number in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise OSError(number, f"statx: {os.strerror(number)}")
    (mask,) = struct.unpack_from("<I", buffer)
    (inode,) = struct.unpack_from("<Q", buffer, STATX_INO_AT)
    seconds, ns = STATX_TIME.unpack_from(buffer, STATX_BTIME_AT if mask & STATX_BTIME else STATX_CTIME_AT)
    return Identity(inode, seconds * 1_000_000_000 + ns)


def write_new(path: str, pieces: Sequence[bytes], *, sync: bool = False) -> None:
    """Create `path` (it must not exist) with these bytes. Without `sync` they are in the page cache only."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        write_all(fd, pieces)
        if sync:
            sync_data(fd)
    finally:
        os.close(fd)


def create(path: str) -> int:
    """A new empty file to fill; the caller owns the descriptor."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)


def write_all(fd: int, pieces: Sequence[bytes], offset: int | None = None) -> int:
    """Write every byte, whatever the system call takes at once, at `offset` or at the descriptor's position."""
    written = 0
    waiting = [memoryview(piece) for piece in pieces if len(piece)]
    while waiting:
        some = waiting[:IOV_MAX]
        took = os.writev(fd, some) if offset is None else os.pwritev(fd, some, offset + written)
        if took <= 0:
            raise OSError(errno.EIO, "the disk took no bytes and gave no reason")
        written += took
        while waiting and took >= len(waiting[0]):
            took -= len(waiting.pop(0))
        if took:
            waiting[0] = waiting[0][took:]
    return written


def sync_data(fd: int) -> None:
    """fdatasync. ENOSPC passes as it is (delayed allocation); the file is then thrown away by the caller."""
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise _as_failure(error, "fdatasync") from error


def start_writing(fd: int) -> None:
    """Ask the kernel to begin writing what is dirty (sync_file_range, no wait). Only an advice: the sync comes later."""
    _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), SYNC_FILE_RANGE_WRITE)


def sync_path(path: str) -> None:
    """fsync of a folder (its names become durable) or of a file by its name."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        raise _as_failure(error, "fsync") from error
    finally:
        os.close(fd)


def sync_filesystem(fd: int) -> None:
    """syncfs: everything written to the file system that holds `fd`. Reports write-back errors since `fd` was opened."""
    if _libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise DiskFailed(number, f"syncfs: {os.strerror(number)}")


def rename(source: str, target: str) -> None:
    os.rename(source, target)


def remove(path: str) -> bool:
    """False when nothing was there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def make_folder(path: str) -> bool:
    """False when it was there already."""
    try:
        os.mkdir(path, FOLDER_MODE)
    except FileExistsError:
        return False
    return True


def replace_file(path: str, content: bytes) -> None:
    """The whole of `path` becomes `content`, or nothing changes: temp, sync, rename, sync of the folder."""
    temp = path + ".new"
    remove(temp)  # left by a crash in here
    write_new(temp, [content], sync=True)
    os.rename(temp, path)
    sync_path(os.path.dirname(path))


def make_tree(folders: Iterable[str]) -> None:
    """Make the folders that are missing, parents first, and their names durable."""
    touched: dict[str, None] = {}
    for folder in folders:
        if make_folder(folder):
            touched[os.path.dirname(folder) or "."] = None
    for parent in touched:
        sync_path(parent)


def make_path(path: str) -> None:
    """The folder and those above it, where missing: with all their names durable, so that no power cut takes the whole root."""
    missing: list[str] = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    make_tree(reversed(missing))


def _as_failure(error: OSError, call: str) -> OSError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return error
    return DiskFailed(error.errno, f"{call}: {error.strerror}")

"""The only module that syncs, renames and unlinks. A call that returns has taken effect; a call that raises was not retried.

A failed sync raises DiskFailed: the kernel may have dropped the pages that it could not write, and a second sync would succeed
although the data is lost ("fsyncgate"). So a sync is never retried; the element becomes read-only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

IOV_MAX = 1024
"""Limit of Linux for the buffers of one writev."""
SYNC_FILE_RANGE_WRITE = 2
FILE_MODE = 0o640
FOLDER_MODE = 0o750

AT_FDCWD, AT_SYMLINK_NOFOLLOW = -100, 0x100
STATX_INO, STATX_BTIME, STATX_CTIME = 0x100, 0x800, 0x80
STATX_BYTES = 256
STATX_TIME = struct.Struct("<qI")
STATX_INO_AT, STATX_BTIME_AT, STATX_CTIME_AT = 32, 80, 96
"""Offsets in struct statx of linux/stat.h."""

_libc = ctypes.CDLL(None, use_errno=True)


class DiskFailed(OSError):
    """A sync reported an error: data written before it may be lost."""


class FileIdentity(NamedTuple):
    """The identity of the file under a name. A file that replaces it differs, even with the same bytes and times."""

    inode: int
    born_ns: int
    """When the inode was created or, where the file system does not say, changed last."""


def identify(path: str) -> FileIdentity | None:
    """None when there is nothing under this name."""
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
    return FileIdentity(inode, seconds * 1_000_000_000 + ns)


def write_new(path: str, pieces: Sequence[bytes], *, sync: bool = False) -> None:
    """Create `path`, which must not exist, with these bytes. Without `sync` they are only in the page cache."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        write_all(fd, pieces)
        if sync:
            sync_data(fd)
    finally:
        os.close(fd)


def create(path: str) -> int:
    """Create an empty file. The caller owns the descriptor."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)


def open_existing(path: str) -> int:
    """Open a file for writing at any position. The caller owns the descriptor."""
    return os.open(path, os.O_WRONLY | os.O_CLOEXEC)


def truncate(fd: int, size_bytes: int) -> None:
    os.ftruncate(fd, size_bytes)


def link(source: str, target: str) -> None:
    """A second name for the same file. `target` must not exist."""
    os.link(source, target)


def write_all(fd: int, pieces: Sequence[bytes], offset: int | None = None) -> int:
    """Write all bytes, in as many system calls as needed, at `offset` or at the descriptor's position."""
    written = 0
    waiting = [memoryview(piece) for piece in pieces if len(piece)]
    while waiting:
        group = waiting[:IOV_MAX]
        count = os.writev(fd, group) if offset is None else os.pwritev(fd, group, offset + written)
        if count <= 0:
            raise OSError(errno.EIO, "the disk wrote no bytes and reported no error")
        written += count
        while waiting and count >= len(waiting[0]):
            count -= len(waiting.pop(0))
        if count:
            waiting[0] = waiting[0][count:]
    return written


def sync_data(fd: int) -> None:
    """fdatasync. ENOSPC is raised as it is (delayed allocation); the caller then discards the file."""
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise _as_failure(error, "fdatasync") from error


def start_writing(fd: int) -> None:
    """Ask the kernel to start writing dirty pages (sync_file_range, no wait). Only a hint: the sync comes later."""
    _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), SYNC_FILE_RANGE_WRITE)


def sync_path(path: str) -> None:
    """fsync of a file, or of a folder, whose names become durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        raise _as_failure(error, "fsync") from error
    finally:
        os.close(fd)


def sync_filesystem(fd: int) -> None:
    """syncfs: everything written to the file system of `fd`. Reports write-back errors since `fd` was opened."""
    if _libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise DiskFailed(number, f"syncfs: {os.strerror(number)}")


def rename(source: str, target: str) -> None:
    os.rename(source, target)


def remove(path: str) -> bool:
    """False when the file did not exist."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def make_folder(path: str) -> bool:
    """False when the folder existed already."""
    try:
        os.mkdir(path, FOLDER_MODE)
    except FileExistsError:
        return False
    return True


def replace_file(path: str, content: bytes) -> None:
    """Replace the whole content of `path`, or change nothing: temp, sync, rename, sync of the folder."""
    temp = path + ".new"
    remove(temp)  # left by a crash in here
    write_new(temp, [content], sync=True)
    os.rename(temp, path)
    sync_path(os.path.dirname(path))


def make_tree(folders: Iterable[str]) -> None:
    """Create missing folders, parents first, with durable names."""
    touched: dict[str, None] = {}
    for folder in folders:
        if make_folder(folder):
            touched[os.path.dirname(folder) or "."] = None
    for parent in touched:
        sync_path(parent)


def make_path(path: str) -> None:
    """Create the folder and its missing parents, with durable names, so that no power cut removes the whole root."""
    missing: list[str] = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    make_tree(reversed(missing))


def _as_failure(error: OSError, call: str) -> OSError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return error
    return DiskFailed(error.errno, f"{call}: {error.strerror}")

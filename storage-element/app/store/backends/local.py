"""Files on a local disk. Has no state except which folders are new."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from artstore.contracts.files import Attributes
from artstore.failpoints import failpoint
from artstore.logs import get_logger

from .. import durable
from ..disk_health import NAME_REFUSED
from ..paths import ATTRIBUTES_SUFFIX, FAN_OUT, Paths, count_quarantined
from ..temps import Temps
from .local_scan import LocalScan

NOT_CACHED = frozenset({errno.EAGAIN, errno.EOPNOTSUPP})
"""preadv2 with RWF_NOWAIT: not in the page cache, or the file system does not support it."""
HASH_PIECE_BYTES = 1 << 20
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""O_NONBLOCK: a named pipe left under a file's name must not block its reader."""
MAX_ATTRIBUTES_BYTES = 1 << 16

log = get_logger("element.store")


@dataclass(frozen=True, slots=True)
class LocalData:
    """An open descriptor: its bytes stay readable when the file is replaced or deleted."""

    fd: int
    size_bytes: int

    def version(self) -> Hashable | None:
        stat = os.fstat(self.fd)
        return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns

    def read_cached(self, offset: int, size_bytes: int) -> bytes | None:
        buffer = bytearray(size_bytes)
        try:
            read_bytes = os.preadv(self.fd, [buffer], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in NOT_CACHED:
                raise
            return None
        return bytes(buffer) if read_bytes == size_bytes else None

    def read(self, offset: int, size_bytes: int) -> bytes:
        return os.pread(self.fd, size_bytes, offset)

    def drop_cache(self) -> None:
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def duplicate(self) -> LocalData:
        return LocalData(os.dup(self.fd), self.size_bytes)

    def close(self) -> None:
        os.close(self.fd)


class LocalBackend(LocalScan):
    nonblocking_reads = True
    log_carries_files = True
    threads = 8

    def __init__(self, paths: Paths) -> None:
        super().__init__(paths)
        self.temps = Temps(paths)
        self._unsynced_folders = bytearray(len(FAN_OUT) ** 2)
        """1 for a new folder whose name in the parent is not durable yet. Paths would take 7 MB."""

    def publish(self, file_id: str, temp: str, attributes: bytes) -> None:
        self.temps.write_attributes(temp, attributes)
        self.temps.sync(temp)
        failpoint("put.synced")
        self._rename(self.temps.data(temp), self.paths.data(file_id))
        failpoint("put.data_renamed")
        self._rename(self.temps.attributes(temp), self.paths.attributes(file_id))
        failpoint("put.renamed")
        self._sync_folder(file_id)

    def publish_small(self, file_id: str, temp: str, data: bytes, attributes: bytes) -> None:
        """The frame in the log is durable, so nothing here is synced.

        The data needs no temp: it is not visible before attr.json is there, and replay makes it again.
        """
        self.temps.write_attributes(temp, attributes)
        failpoint("put.small.staged")
        self._write_data(file_id, data)
        failpoint("put.small.data_written")
        self._rename(self.temps.attributes(temp), self.paths.attributes(file_id))
        failpoint("put.small.published")

    def undo_put(self, file_id: str, temp: str) -> None:
        """attr.json first, so that no reader finds a file without its data."""
        durable.remove(self.paths.attributes(file_id))
        durable.remove(self.paths.data(file_id))
        self.temps.drop(temp)

    def replace_attributes(self, file_id: str, temp: str, attributes: bytes) -> None:
        durable.write_new(self.temps.data(temp), [attributes])
        failpoint("update.staged")
        self._rename(self.temps.data(temp), self.paths.attributes(file_id))
        failpoint("update.renamed")

    def replace_small(self, file_id: str, temp: str, data: bytes, attributes: bytes) -> None:
        """Both are written to temps first, so that a full disk is detected before anything has changed."""
        self.temps.write_data(temp, data)
        self.temps.write_attributes(temp, attributes)
        failpoint("update.small.staged")
        self._rename_both(file_id, temp)

    def swap(self, file_id: str, temp: str) -> None:
        self._rename_both(file_id, temp)
        self._sync_folder(file_id)

    def open_replacing(self, temp: str) -> None:
        """An open descriptor keeps the old bytes."""

    def remove(self, file_id: str) -> None:
        durable.remove(self.paths.attributes(file_id))
        failpoint("delete.attributes_removed")
        try:
            durable.remove(self.paths.data(file_id))
        except OSError as error:
            if error.errno not in NAME_REFUSED:
                raise
            # Without attr.json the file is deleted; the orphan sweep tries the data again.
            log.error("data not removed", file_id=file_id, error=str(error))
        failpoint("delete.data_removed")

    def quarantine(self, file_id: str) -> None:
        """Never overwrites an earlier file of the same id in the quarantine."""
        moved = False
        for source, suffix in (
            (self.paths.attributes(file_id), ATTRIBUTES_SUFFIX),
            (self.paths.data(file_id), ""),
        ):
            target = f"{self.paths.quarantine}/{file_id}{suffix}"
            if os.path.exists(source):
                durable.rename(source, target if not os.path.exists(target) else f"{target}.{time.time_ns()}")
                moved = True
        if moved:
            durable.sync_path(self.paths.folder(file_id))
            durable.sync_path(self.paths.quarantine)

    def is_quarantined(self, file_id: str) -> bool:
        target = f"{self.paths.quarantine}/{file_id}"
        return os.path.exists(target) or os.path.exists(target + ATTRIBUTES_SUFFIX)

    def count_quarantined(self) -> int:
        return count_quarantined(self._names(self.paths.quarantine))

    def identify(self, file_id: str) -> tuple[durable.FileIdentity, ...]:
        found = (durable.identify(self.paths.attributes(file_id)), durable.identify(self.paths.data(file_id)))
        return tuple(one for one in found if one is not None)

    def find_attributes(self, file_id: str) -> bytes | None:
        try:
            fd = os.open(self.paths.attributes(file_id), READ)
        except FileNotFoundError as error:
            _refuse_dangling_link(error)
            return None
        try:
            return os.read(fd, MAX_ATTRIBUTES_BYTES)
        finally:
            os.close(fd)

    def find_many(self, file_ids: Sequence[str]) -> list[bytes | None]:
        return [self.find_attributes(file_id) for file_id in file_ids]

    def open_data(self, file_id: str) -> LocalData | None:
        try:
            fd = os.open(self.paths.data(file_id), READ)
        except FileNotFoundError as error:
            _refuse_dangling_link(error)
            return None
        return LocalData(fd, os.fstat(fd).st_size)

    def holds(self, file_id: str, attributes: Attributes) -> bool:
        """By size and hash: after a power cut a file may be short or empty, or have blocks that were never
        written."""
        path = self.paths.data(file_id)
        if not os.path.exists(path):
            return False
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size != attributes.size_bytes:
                return False
            sha256 = hashlib.sha256()
            while piece := file.read(HASH_PIECE_BYTES):
                sha256.update(piece)
        return f"sha256:{sha256.hexdigest()}" == attributes.checksum

    def _rename_both(self, file_id: str, temp: str) -> None:
        """The log has decided the change, so any error is a failure of the disk: a decided change is never
        undone.

        The data's temp is missing when an earlier attempt was cut short after its rename.
        """
        try:
            if os.path.exists(self.temps.data(temp)):
                self._rename(self.temps.data(temp), self.paths.data(file_id))
                failpoint("update.data_renamed")
            self._rename(self.temps.attributes(temp), self.paths.attributes(file_id))
            failpoint("update.swapped")
        except OSError as error:
            raise durable.DiskFailed(error.errno, f"rename: {error.strerror}") from error

    def _write_data(self, file_id: str, data: bytes) -> None:
        path = self.paths.data(file_id)
        try:
            durable.write_new(path, [data])
        except FileNotFoundError:
            self._make_folder(os.path.dirname(path))
            durable.write_new(path, [data])
        except FileExistsError:
            # Data without attributes, left by an undo that failed.
            durable.remove(path)
            durable.write_new(path, [data])

    def _rename(self, source: str, target: str) -> None:
        try:
            durable.rename(source, target)
        except FileNotFoundError:
            self._make_folder(os.path.dirname(target))
            durable.rename(source, target)

    def _make_folder(self, folder: str) -> None:
        if durable.make_folder(folder):
            # A small file leaves the new folder's name to the next checkpoint, a large one syncs it.
            self._unsynced_folders[_number(folder)] = 1

    def _sync_folder(self, file_id: str) -> None:
        """The names in the file's folder, and the folder's own name until its parent was synced."""
        folder = self.paths.folder(file_id)
        durable.sync_path(folder)
        if self._unsynced_folders[_number(folder)]:
            durable.sync_path(os.path.dirname(folder))
            self._unsynced_folders[_number(folder)] = 0


def _number(folder: str) -> int:
    """The prefix of the ids in a second-level folder, whose path ends with four digits: `…/a1/f0`."""
    return int(folder[-5:-3] + folder[-2:], 16)


def _refuse_dangling_link(error: FileNotFoundError) -> None:
    """Raises OSError for a dangling symbolic link: its target may be on a disk that is not mounted now."""
    if os.path.islink(error.filename):
        raise OSError(errno.ENOLINK, "a dangling symbolic link", error.filename) from error

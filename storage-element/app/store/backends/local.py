"""The files of a local disk: what each step does to them. Holds no state but which folders are new."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from artstore.contracts.files import Attributes
from artstore.failpoints import failpoint
from artstore.logs import get_logger

from .. import durable
from ..disk_health import OF_THE_NAME
from ..paths import ATTRIBUTES_SUFFIX, Paths
from .local_scan import LocalScan

NO_PAGE = frozenset({errno.EAGAIN, errno.EOPNOTSUPP})
"""preadv2 with RWF_NOWAIT: not in the page cache, or the file system cannot tell."""
HASH_PIECE_BYTES = 1 << 20
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""A pipe that somebody left under a file's name must not hold up whoever opens it."""

log = get_logger("element.store")


@dataclass(frozen=True, slots=True)
class LocalData:
    """The descriptor keeps its bytes readable even when the file is replaced or deleted meanwhile."""

    fd: int
    size_bytes: int

    def read_cached(self, offset: int, size_bytes: int) -> bytes | None:
        buffer = bytearray(size_bytes)
        try:
            took = os.preadv(self.fd, [buffer], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in NO_PAGE:
                raise
            return None
        return bytes(buffer) if took == size_bytes else None

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
    rides_in_log = True
    threads = 8

    def __init__(self, paths: Paths) -> None:
        super().__init__(paths)
        self._loose: set[str] = set()
        self._temp_numbers = count(1)

    def new_temp(self, file_id: str) -> str:
        return f"{file_id}.{next(self._temp_numbers)}"

    def put_small(self, file_id: str, temp: str, data: bytes, attributes: bytes) -> None:
        """Steps 2 and 4 of a file whose bytes are durable in the log already: nothing here needs a sync of its own.

        The bytes need no temp either: nobody sees them before attr.json is there, and replay makes them again.
        """
        self.stage(temp + ATTRIBUTES_SUFFIX, attributes)
        failpoint("put.small.staged")
        self._write_data(file_id, data)
        failpoint("put.small.data_written")
        self._move(temp + ATTRIBUTES_SUFFIX, self.paths.attributes(file_id))
        failpoint("put.small.published")

    def stage(self, temp: str, content: bytes) -> None:
        durable.write_new(self.paths.temp(temp), [content])

    def sync_new(self, temp: str) -> None:
        """Step 3: both temps, the attributes last."""
        durable.sync_path(self.paths.temp(temp))
        durable.sync_path(self.paths.temp(temp + ATTRIBUTES_SUFFIX))

    def sync_decided(self, temp: str) -> None:
        self.sync_new(temp)
        durable.sync_path(self.paths.temps)

    def publish(self, file_id: str, temp: str) -> None:
        """Step 4 of a file that synced itself. attr.json in its place is the commit point, the folder's sync its seal."""
        self._move(temp, self.paths.data(file_id))
        failpoint("put.data_renamed")
        self._move(temp + ATTRIBUTES_SUFFIX, self.paths.attributes(file_id))
        failpoint("put.renamed")
        self.sync_folder(file_id)

    def sync_folder(self, file_id: str) -> None:
        """The names in the file's folder, and the folder's own name while nobody has synced its parent."""
        folder = self.paths.folder(file_id)
        durable.sync_path(folder)
        if folder in self._loose:
            durable.sync_path(os.path.dirname(folder))
            self._loose.discard(folder)

    def replace_attributes(self, file_id: str, temp: str, attributes: bytes) -> None:
        """Another attr.json in one rename; the bytes stay."""
        self.stage(temp, attributes)
        failpoint("update.staged")
        self._move(temp, self.paths.attributes(file_id))
        failpoint("update.renamed")

    def replace_small(self, file_id: str, temp: str, data: bytes, attributes: bytes) -> None:
        """Both by rename. Staged first, so that a full disk strikes before anything has changed."""
        self.stage(temp, data)
        self.stage(temp + ATTRIBUTES_SUFFIX, attributes)
        failpoint("update.small.staged")
        self.swap(file_id, temp)

    def swap(self, file_id: str, temp: str) -> None:
        """New data, then new attr.json. Between the two they do not match: the log's record goes forward from there.

        So a failure here is the disk's, whatever it says: nothing that was decided may be called off.
        """
        try:
            self._move(temp, self.paths.data(file_id))
            failpoint("update.data_renamed")
            self._move(temp + ATTRIBUTES_SUFFIX, self.paths.attributes(file_id))
            failpoint("update.swapped")
        except OSError as error:
            raise durable.DiskFailed(error.errno, f"rename: {error.strerror}") from error

    def finish_swap(self, file_id: str, temp: str) -> None:
        """A swap that a crash may have cut in two: the data's temp is gone when its rename was done."""
        if os.path.exists(self.paths.temp(temp)):
            self._move(temp, self.paths.data(file_id))
        self._move(temp + ATTRIBUTES_SUFFIX, self.paths.attributes(file_id))
        self.sync_folder(file_id)

    def remove(self, file_id: str) -> None:
        """attr.json, then data. Nothing there is no error."""
        durable.remove(self.paths.attributes(file_id))
        failpoint("delete.attributes_removed")
        try:
            durable.remove(self.paths.data(file_id))
        except OSError as error:
            if error.errno not in OF_THE_NAME:
                raise
            # Without attr.json it is gone; the sweep tries again.
            log.error("data not removed", file_id=file_id, error=str(error))
        failpoint("delete.data_removed")

    def undo_put(self, file_id: str, temp: str) -> None:
        """Back to nothing: attr.json first, so that no reader meets a file without its data."""
        durable.remove(self.paths.attributes(file_id))
        durable.remove(self.paths.data(file_id))
        self.drop_temps(temp)

    def open_staged(self, temp: str) -> None:
        """An open descriptor keeps the old bytes."""

    def drop_temps(self, temp: str) -> None:
        if temp:  # a mark of an older log names none
            durable.remove(self.paths.temp(temp + ATTRIBUTES_SUFFIX))
            durable.remove(self.paths.temp(temp))

    def identify(self, file_id: str) -> tuple[durable.Identity, ...]:
        found = (durable.identify(self.paths.attributes(file_id)), durable.identify(self.paths.data(file_id)))
        return tuple(one for one in found if one is not None)

    def find_attributes(self, file_id: str) -> bytes | None:
        """attr.json as it lies there, damaged or not."""
        try:
            fd = os.open(self.paths.attributes(file_id), READ)
        except FileNotFoundError as error:
            _require_no_link(error)
            return None
        try:
            return os.read(fd, 1 << 16)
        finally:
            os.close(fd)

    def find_many(self, file_ids: Sequence[str]) -> list[bytes | None]:
        return [self.find_attributes(file_id) for file_id in file_ids]

    def open_data(self, file_id: str) -> LocalData | None:
        try:
            fd = os.open(self.paths.data(file_id), READ)
        except FileNotFoundError as error:
            _require_no_link(error)
            return None
        return LocalData(fd, os.fstat(fd).st_size)

    def holds(self, file_id: str, attributes: Attributes) -> bool:
        """Size and hash: after a power cut a file may be short or empty, or have blocks that were never written."""
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

    def quarantine(self, file_id: str) -> None:
        """A later one of the same id never replaces what lies there already."""
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

    def _write_data(self, file_id: str, data: bytes) -> None:
        path = self.paths.data(file_id)
        try:
            durable.write_new(path, [data])
        except FileNotFoundError:
            self._make_folder(os.path.dirname(path))
            durable.write_new(path, [data])
        except FileExistsError:
            # Bytes without attributes, left by a failure that could not clear them away.
            durable.remove(path)
            durable.write_new(path, [data])

    def _move(self, temp: str, target: str) -> None:
        source = self.paths.temp(temp)
        try:
            durable.rename(source, target)
        except FileNotFoundError:
            self._make_folder(os.path.dirname(target))
            durable.rename(source, target)

    def _make_folder(self, folder: str) -> None:
        if durable.make_folder(folder):
            # Small files leave the new folder's name to the next checkpoint, larger ones sync it themselves.
            self._loose.add(folder)


def _require_no_link(error: FileNotFoundError) -> None:
    """Raises OSError for a link that leads nowhere: its target may be on a disk that is not mounted now."""
    if os.path.islink(error.filename):
        raise OSError(errno.ENOLINK, "a link that leads nowhere", error.filename) from error

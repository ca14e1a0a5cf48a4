"""The files of a local disk: what each step does to them. Called from threads; holds no state but which folders are new.

Order everywhere: data before attr.json when a file comes, attr.json before data when it goes. So a file that can be seen
is whole.
"""

from __future__ import annotations

import os
from itertools import count

from artstore.points import hit

from . import durable
from .paths import ATTRIBUTES_SUFFIX, Paths


class Files:
    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self._loose: set[str] = set()
        self._temp_numbers = count(1)

    def new_temp(self, file_id: str) -> str:
        """A name under tmp/ that nothing in this run has; the start has emptied the folder."""
        return f"{file_id}.{next(self._temp_numbers)}"

    def put_small(self, file_id: str, temp: str, data: bytes, attributes: bytes) -> None:
        """Steps 2 and 4 of a file whose bytes are durable in the log already: nothing here needs a sync of its own."""
        self.stage(temp, data)
        self.stage(temp + ATTRIBUTES_SUFFIX, attributes)
        hit("put.small.staged")
        self._move(temp, self.paths.data(file_id))
        hit("put.small.data_renamed")
        self._move(temp + ATTRIBUTES_SUFFIX, self.paths.attributes(file_id))
        hit("put.small.published")

    def stage(self, temp: str, content: bytes) -> None:
        durable.write_new(self.paths.temp(temp), [content])

    def sync_temps(self, temp: str) -> None:
        """Step 3: both temps, the attributes last."""
        durable.sync_path(self.paths.temp(temp))
        durable.sync_path(self.paths.temp(temp + ATTRIBUTES_SUFFIX))

    def publish(self, file_id: str, temp: str) -> None:
        """Step 4 of a file that synced itself. attr.json in its place is the commit point, the folder's sync its seal."""
        self._move(temp, self.paths.data(file_id))
        hit("put.data_renamed")
        self._move(temp + ATTRIBUTES_SUFFIX, self.paths.attributes(file_id))
        hit("put.renamed")
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
        hit("update.staged")
        self._move(temp, self.paths.attributes(file_id))
        hit("update.renamed")

    def replace_small(self, file_id: str, temp: str, data: bytes, attributes: bytes) -> None:
        """Both by rename. Staged first, so that a full disk strikes before anything has changed."""
        self.stage(temp, data)
        self.stage(temp + ATTRIBUTES_SUFFIX, attributes)
        hit("update.small.staged")
        self.swap(file_id, temp)

    def swap(self, file_id: str, temp: str) -> None:
        """New data, then new attr.json. Between the two they do not match: the log's record goes forward from there.

        So a failure here is the disk's, whatever it says: nothing that was decided may be called off.
        """
        try:
            self._move(temp, self.paths.data(file_id))
            hit("update.data_renamed")
            self._move(temp + ATTRIBUTES_SUFFIX, self.paths.attributes(file_id))
            hit("update.swapped")
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
        hit("delete.attributes_removed")
        durable.remove(self.paths.data(file_id))
        hit("delete.data_removed")

    def sync_temp_names(self) -> None:
        durable.sync_path(self.paths.temps)

    def undo_put(self, file_id: str, temp: str) -> None:
        """Back to nothing: attr.json first, so that no reader meets a file without its data."""
        durable.remove(self.paths.attributes(file_id))
        durable.remove(self.paths.data(file_id))
        self.drop_temps(temp)

    def drop_temps(self, temp: str) -> None:
        durable.remove(self.paths.temp(temp + ATTRIBUTES_SUFFIX))
        durable.remove(self.paths.temp(temp))

    def find_attributes(self, file_id: str) -> bytes | None:
        """attr.json as it lies there, damaged or not."""
        try:
            fd = os.open(self.paths.attributes(file_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return os.read(fd, 1 << 16)
        finally:
            os.close(fd)

    def open_data(self, file_id: str) -> int | None:
        try:
            return os.open(self.paths.data(file_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None

    def quarantine(self, file_id: str) -> None:
        """Out of the way of listings and reads, kept for a person to look at."""
        for source, suffix in (
            (self.paths.attributes(file_id), ATTRIBUTES_SUFFIX),
            (self.paths.data(file_id), ""),
        ):
            if os.path.exists(source):
                durable.rename(source, f"{self.paths.quarantine}/{file_id}{suffix}")

    def _move(self, temp: str, target: str) -> None:
        source = self.paths.temp(temp)
        try:
            durable.rename(source, target)
        except FileNotFoundError:
            folder = os.path.dirname(target)
            if durable.make_folder(folder):
                # Small files leave the new folder's name to the next checkpoint, larger ones sync it themselves.
                self._loose.add(folder)
            durable.rename(source, target)

"""Files in a bucket, under a prefix of its own. Bodies wait in temps on the element's disk until S3 has them.

An acknowledgement of S3 means durable, so nothing is replayed from the log. S3 cannot rename: data is
uploaded under its name, then attr.json; each appears whole or not at all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime

from artstore.contracts.files import Attributes, is_id
from artstore.failpoints import failpoint

from .. import durable
from ..paths import ATTRIBUTES_SUFFIX, Paths, count_quarantined
from ..temps import Temps
from .base import FileEntry
from .local import LocalData
from .s3_objects import S3Data, S3Objects
from .s3_uploads import S3Settings

QUARANTINE = "quarantine"
FIND_CONCURRENCY = 16
"""Objects read at the same time for one page of a listing."""


class S3Backend:
    nonblocking_reads = False
    log_carries_files = False
    threads = 32

    def __init__(self, paths: Paths, settings: S3Settings) -> None:
        self.paths = paths
        self.temps = Temps(paths)
        self.unreadable_folders: set[str] = set()
        self.objects = S3Objects(settings)

    def publish(self, file_id: str, temp: str, attributes: bytes) -> None:
        """The temp needs no sync: the put counts once S3 has it, and after a crash its temps are removed."""
        self._upload(file_id, temp)
        failpoint("put.data_renamed")
        self.objects.put(attributes_key(file_id), attributes)
        failpoint("put.renamed")
        self.temps.drop(temp)

    def publish_small(self, file_id: str, temp: str, data: bytes, attributes: bytes) -> None:
        self.objects.put(data_key(file_id), data)
        failpoint("put.small.data_written")
        self.objects.put(attributes_key(file_id), attributes)
        failpoint("put.small.published")

    def undo_put(self, file_id: str, temp: str) -> None:
        """Also aborts an upload that a crash left unfinished. A request still in flight is left to the orphan
        sweep."""
        self.objects.delete(attributes_key(file_id))
        self.objects.delete(data_key(file_id))
        for upload in self.objects.unfinished_uploads(data_key(file_id)):
            self.objects.uploads.abort(upload)
        self.temps.drop(temp)

    def replace_attributes(self, file_id: str, temp: str, attributes: bytes) -> None:
        self.objects.put(attributes_key(file_id), attributes)
        failpoint("update.renamed")

    def replace_small(self, file_id: str, temp: str, data: bytes, attributes: bytes) -> None:
        self.temps.write_data(temp, data)
        self.temps.write_attributes(temp, attributes)
        self.swap(file_id, temp)

    def swap(self, file_id: str, temp: str) -> None:
        if os.path.exists(
            self.temps.data(temp)
        ):  # missing when an earlier attempt was cut short while it removed the temps
            self._upload(file_id, temp)
            failpoint("update.data_renamed")
        self.objects.put(attributes_key(file_id), self.temps.read_attributes(temp))
        failpoint("update.swapped")
        self.temps.drop(temp)

    def open_replacing(self, temp: str) -> LocalData:
        """In S3 the old bytes are gone as soon as the new ones are there."""
        fd = os.open(self.temps.data(temp), os.O_RDONLY | os.O_CLOEXEC)
        return LocalData(fd, os.fstat(fd).st_size)

    def remove(self, file_id: str) -> None:
        self.objects.delete(attributes_key(file_id))
        failpoint("delete.attributes_removed")
        self.objects.delete(data_key(file_id))
        failpoint("delete.data_removed")

    def quarantine(self, file_id: str) -> None:
        """Never overwrites an earlier file of the same id in the quarantine."""
        for key in (attributes_key(file_id), data_key(file_id)):
            meta = self.objects.find_meta(key)
            if meta is not None:
                target = f"{QUARANTINE}/{key.rpartition('/')[2]}"
                if self.objects.find_meta(target) is not None:
                    target = f"{target}.{time.time_ns()}"
                self.objects.move(key, target, meta["size"])

    def is_quarantined(self, file_id: str) -> bool:
        target = f"{QUARANTINE}/{file_id}"
        return any(self.objects.find_meta(key) is not None for key in (target + ATTRIBUTES_SUFFIX, target))

    def count_quarantined(self) -> int:
        return count_quarantined(
            meta["path"].rpartition("/")[2] for meta in self.objects.list_objects(f"{QUARANTINE}/")
        )

    def identify(self, file_id: str) -> tuple[durable.FileIdentity, ...]:
        return ()

    def find_attributes(self, file_id: str) -> bytes | None:
        return self.objects.find(attributes_key(file_id))

    def find_many(self, file_ids: Sequence[str]) -> list[bytes | None]:
        with ThreadPoolExecutor(FIND_CONCURRENCY, "s3-find") as threads:
            return list(threads.map(self.find_attributes, file_ids))

    def open_data(self, file_id: str) -> S3Data | None:
        meta = self.objects.find_meta(data_key(file_id))
        if meta is None:
            return None
        return S3Data(self.objects, data_key(file_id), meta["e_tag"], meta["size"])

    def holds(self, file_id: str, attributes: Attributes) -> bool:
        """By size: S3 checked each part against its signed hash, and an object is there whole or not at
        all."""
        meta = self.objects.find_meta(data_key(file_id))
        return meta is not None and meta["size"] == attributes.size_bytes

    def survey(self, first: str) -> list[FileEntry]:
        entries: dict[str, FileEntry] = {}
        for meta in self.objects.list_objects(f"files/{first}/"):
            name, changed_s = meta["path"].rpartition("/")[2], meta["last_modified"].timestamp()
            file_id = name.removesuffix(ATTRIBUTES_SUFFIX)
            if not _is_file(meta["path"], file_id):
                continue
            if name == file_id:
                entries[file_id] = FileEntry(file_id, False, meta["size"], changed_s)
            else:
                data = entries.get(file_id) or FileEntry(file_id, False, None, changed_s)
                entries[file_id] = replace(data, has_attributes=True)
        return list(entries.values())

    def walk(self, after: str = "") -> Iterator[str]:
        for meta in self.objects.list_objects("files/", attributes_key(after) if after else None):
            name = meta["path"].rpartition("/")[2]
            file_id = name.removesuffix(ATTRIBUTES_SUFFIX)
            if file_id != name and _is_file(meta["path"], file_id):
                yield file_id

    def walk_strays(self) -> Iterator[str]:
        for meta in self.objects.list_objects("files/"):
            file_id = meta["path"].rpartition("/")[2].removesuffix(ATTRIBUTES_SUFFIX)
            if not _is_file(meta["path"], file_id):
                yield meta["path"]

    def abort_unfinished(self, before: datetime, busy: Container[str]) -> int:
        """Abort multipart uploads begun before then, of files that no operation works on. Returns their
        number."""
        aborted = 0
        for upload in self.objects.unfinished_uploads("files/"):
            if upload.begun_at < before and upload.key.rpartition("/")[2] not in busy:
                self.objects.uploads.abort(upload)
                aborted += 1
        return aborted

    def _upload(self, file_id: str, temp: str) -> None:
        path = self.temps.data(temp)
        self.objects.upload(data_key(file_id), path, os.path.getsize(path))


def _is_file(key: str, file_id: str) -> bool:
    """True if the key is one that this element uses; other objects in the prefix are strays."""
    return is_id(file_id) and key in (data_key(file_id), attributes_key(file_id))


def data_key(file_id: str) -> str:
    return f"files/{file_id[-4:-2]}/{file_id[-2:]}/{file_id}"


def attributes_key(file_id: str) -> str:
    return data_key(file_id) + ATTRIBUTES_SUFFIX

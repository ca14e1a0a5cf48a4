"""The files of an element in a bucket, under a prefix of its own. Bodies wait in temps on the element's disk until S3 took them.

What S3 acknowledged is durable, so nothing rides in the log. There is no rename: data is uploaded under its name, then
attr.json; each appears whole or not at all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from artstore.contracts.files import Attributes
from artstore.errors import Unavailable
from artstore.failpoints import failpoint

from .. import durable
from ..paths import ATTRIBUTES_SUFFIX, Paths, is_file_id
from .base import FileEntry
from .local import LocalData
from .s3_data import S3Data
from .s3_settings import S3Settings
from .s3_uploads import S3Uploads, Upload

if TYPE_CHECKING:
    from obstore import ObjectMeta

Result = TypeVar("Result")

MAX_PARTS = 10_000
"""Of one multipart upload."""
MAX_COPY_BYTES = 5 << 30
"""Of one copy inside S3."""
WORDS = {
    "PermissionDeniedError": "S3 forbids it to this element's key",
    "UnauthenticatedError": "S3 does not know this element's key",
    "PreconditionError": "the file was replaced while it was read",
    "AlreadyExistsError": "S3 has such an object already",
}
QUARANTINE = "quarantine"
SMALL_TIMEOUT_S = 8.0
"""For a request that carries at most a small file: who waits for it gives up sooner than for a part."""
LOOKS_AT_ONCE = 16
"""Objects asked for at the same time for one page of a listing."""
LIST_PAGE = 1000
NO_BUCKET = "NoSuchBucket"
"""S3's word for it; without it a lost bucket would look like a lost file."""


class S3Backend:
    nonblocking_reads = False
    rides_in_log = False
    threads = 32

    def __init__(self, paths: Paths, settings: S3Settings) -> None:
        self.paths = paths
        self.unreadable_folders: set[str] = set()
        self.settings = settings
        self.uploads = S3Uploads(settings)
        self.objects = open_objects(settings)
        self._small = open_objects(replace(settings, timeout_s=min(SMALL_TIMEOUT_S, settings.timeout_s)))
        self.claimed = False
        """Whether the prefix is known to be this root's. Until it is, every call raises Unavailable."""
        self.away = False
        """S3 did not answer several checks in a row: calls are refused at once, instead of waiting one timeout each."""
        self._temp_numbers = count(1)

    # Temps

    def new_temp(self, file_id: str) -> str:
        return f"{file_id}.{next(self._temp_numbers)}"

    def stage(self, temp: str, content: bytes) -> None:
        durable.write_new(self.paths.temp(temp), [content])

    def sync_new(self, temp: str) -> None:
        """Nothing: a put counts once S3 has it, and its temps are thrown away after a crash."""

    def sync_decided(self, temp: str) -> None:
        durable.sync_path(self.paths.temp(temp))
        durable.sync_path(self.paths.temp(temp + ATTRIBUTES_SUFFIX))
        durable.sync_path(self.paths.temps)

    def open_staged(self, temp: str) -> LocalData:
        """In S3 the old bytes are gone as soon as the new ones are there."""
        fd = os.open(self.paths.temp(temp), os.O_RDONLY | os.O_CLOEXEC)
        return LocalData(fd, os.fstat(fd).st_size)

    def drop_temps(self, temp: str) -> None:
        if temp:
            durable.remove(self.paths.temp(temp + ATTRIBUTES_SUFFIX))
            durable.remove(self.paths.temp(temp))

    # A file comes

    def publish(self, file_id: str, temp: str) -> None:
        self._upload(file_id, temp)
        failpoint("put.data_renamed")
        self._put_attributes(file_id, self._staged_attributes(temp))
        failpoint("put.renamed")
        self.drop_temps(temp)

    def put_small(self, file_id: str, temp: str, data: bytes, attributes: bytes) -> None:
        self._ask(lambda: obstore.put(self._small, data_key(file_id), data, use_multipart=False))
        failpoint("put.small.data_written")
        self._put_attributes(file_id, attributes)
        failpoint("put.small.published")

    def undo_put(self, file_id: str, temp: str) -> None:
        """Also the upload that a crash or an outage has left unfinished; a request still on its way is the sweep's."""
        self._delete(attributes_key(file_id))
        self._delete(data_key(file_id))
        for upload in self.unfinished_uploads(data_key(file_id)):
            self.uploads.abort(upload)
        self.drop_temps(temp)

    # A file changes

    def replace_attributes(self, file_id: str, temp: str, attributes: bytes) -> None:
        self._put_attributes(file_id, attributes)
        failpoint("update.renamed")

    def replace_small(self, file_id: str, temp: str, data: bytes, attributes: bytes) -> None:
        self.stage(temp, data)
        self.stage(temp + ATTRIBUTES_SUFFIX, attributes)
        self.swap(file_id, temp)

    def swap(self, file_id: str, temp: str) -> None:
        self._upload(file_id, temp)
        failpoint("update.data_renamed")
        self._put_attributes(file_id, self._staged_attributes(temp))
        failpoint("update.swapped")
        self.drop_temps(temp)

    def finish_swap(self, file_id: str, temp: str) -> None:
        self.swap(file_id, temp)

    def sync_folder(self, file_id: str) -> None:
        """Nothing: S3 has acknowledged."""

    # A file goes

    def remove(self, file_id: str) -> None:
        self._delete(attributes_key(file_id))
        failpoint("delete.attributes_removed")
        self._delete(data_key(file_id))
        failpoint("delete.data_removed")

    def quarantine(self, file_id: str) -> None:
        """A later one of the same id never replaces what lies there already."""
        for key in (attributes_key(file_id), data_key(file_id)):
            meta = self.find_meta(key)
            if meta is not None:
                target = f"{QUARANTINE}/{key.rpartition('/')[2]}"
                if self.find_meta(target) is not None:
                    target = f"{target}.{time.time_ns()}"
                self._copy(key, target, meta["size"])
                self._delete(key)

    def is_quarantined(self, file_id: str) -> bool:
        target = f"{QUARANTINE}/{file_id}"
        return any(self.find_meta(key) is not None for key in (target + ATTRIBUTES_SUFFIX, target))

    # Looking

    def identify(self, file_id: str) -> tuple[durable.Identity, ...]:
        return ()

    def find_attributes(self, file_id: str) -> bytes | None:
        try:
            return self._ask(lambda: bytes(obstore.get(self._small, attributes_key(file_id)).bytes()))
        except FileNotFoundError:
            return None

    def find_many(self, file_ids: Sequence[str]) -> list[bytes | None]:
        with ThreadPoolExecutor(LOOKS_AT_ONCE, "s3 looks") as threads:
            return list(threads.map(self.find_attributes, file_ids))

    def open_data(self, file_id: str) -> S3Data | None:
        meta = self.find_meta(data_key(file_id))
        if meta is None:
            return None
        return S3Data(self._get_part, data_key(file_id), meta["e_tag"], meta["size"])

    def holds(self, file_id: str, attributes: Attributes) -> bool:
        """By size: S3 checked each part against its signed hash, and an object is there whole or not at all."""
        meta = self.find_meta(data_key(file_id))
        return meta is not None and meta["size"] == attributes.size_bytes

    def survey(self, first: str) -> list[FileEntry]:
        seen: dict[str, FileEntry] = {}
        for meta in self.list_objects(f"files/{first}/"):
            name, changed_s = meta["path"].rpartition("/")[2], meta["last_modified"].timestamp()
            file_id = name.removesuffix(ATTRIBUTES_SUFFIX)
            if not _is_ours(meta["path"], file_id):
                continue
            if name == file_id:
                seen[file_id] = FileEntry(file_id, False, meta["size"], changed_s)
            else:
                data = seen.get(file_id) or FileEntry(file_id, False, None, changed_s)
                seen[file_id] = replace(data, has_attributes=True)
        return list(seen.values())

    def walk(self, after: str = "") -> Iterator[str]:
        for meta in self.list_objects("files/", attributes_key(after) if after else None):
            name = meta["path"].rpartition("/")[2]
            file_id = name.removesuffix(ATTRIBUTES_SUFFIX)
            if file_id != name and _is_ours(meta["path"], file_id):
                yield file_id

    def walk_strays(self) -> Iterator[str]:
        for meta in self.list_objects("files/"):
            file_id = meta["path"].rpartition("/")[2].removesuffix(ATTRIBUTES_SUFFIX)
            if not _is_ours(meta["path"], file_id):
                yield meta["path"]

    # Of this backend alone

    def list_objects(self, folder: str, after: str | None = None) -> Iterator[ObjectMeta]:
        """In the order of their keys, those after the key `after`."""
        pages = self._ask(lambda: obstore.list(self.objects, folder, offset=after, chunk_size=LIST_PAGE))
        while page := self._ask(lambda: next(pages, None)):
            yield from page

    def find_meta(self, key: str) -> ObjectMeta | None:
        try:
            return self._ask(lambda: obstore.head(self._small, key))
        except FileNotFoundError:
            return None

    def unfinished_uploads(self, key: str = "files/") -> list[Upload]:
        """Of keys that begin so."""
        return self._ask(lambda: list(self.uploads.unfinished(f"{self.settings.prefix}/{key}")))

    def _get_part(self, key: str, etag: str | None, offset: int, end: int) -> bytes:
        """Raises Unavailable also when the object was replaced or removed: never another revision's bytes."""

        def get() -> bytes:
            return bytes(obstore.get(self.objects, key, options={"range": (offset, end), "if_match": etag}).bytes())

        try:
            return self._ask(get)
        except FileNotFoundError as error:
            raise Unavailable("the file was removed while it was read") from error

    def _copy(self, source: str, target: str, size_bytes: int) -> None:
        """S3 copies by itself up to a limit; what is larger goes through here, a piece at a time."""
        if size_bytes <= MAX_COPY_BYTES:
            self._ask(lambda: obstore.copy(self.objects, source, target))
            return
        pieces = self._ask(lambda: obstore.get(self.objects, source)).stream(min_chunk_size=self.settings.part_bytes)
        part_bytes = max(self.settings.part_bytes, -(-size_bytes // MAX_PARTS))
        self._ask(lambda: obstore.put(self.objects, target, pieces, chunk_size=part_bytes, max_concurrency=1))

    def abort_unfinished(self, before: datetime, busy: Container[str]) -> int:
        """Multipart uploads begun before then, of files that nobody works on. Returns how many there were."""
        aborted = 0
        for upload in self.unfinished_uploads():
            if upload.begun_at < before and upload.key.rpartition("/")[2] not in busy:
                self.uploads.abort(upload)
                aborted += 1
        return aborted

    def _upload(self, file_id: str, temp: str) -> None:
        """One request, or one per part: a few parts are in memory, whatever the size."""
        with open(self.paths.temp(temp), "rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            part_bytes = max(self.settings.part_bytes, -(-size_bytes // MAX_PARTS))
            self._ask(
                lambda: obstore.put(
                    self.objects,
                    data_key(file_id),
                    file,
                    use_multipart=size_bytes > part_bytes,
                    chunk_size=part_bytes,
                    max_concurrency=self.settings.parts_at_once,
                )
            )

    def _staged_attributes(self, temp: str) -> bytes:
        with open(self.paths.temp(temp + ATTRIBUTES_SUFFIX), "rb") as file:
            return file.read()

    def _put_attributes(self, file_id: str, attributes: bytes) -> None:
        self._ask(lambda: obstore.put(self._small, attributes_key(file_id), attributes, use_multipart=False))

    def _delete(self, key: str) -> None:
        try:
            self._ask(lambda: obstore.delete(self._small, key))
        except FileNotFoundError:
            pass

    def _ask(self, call: Callable[[], Result]) -> Result:
        """obstore's errors as ours. FileNotFoundError passes; the caller knows what it means."""
        if not self.claimed:
            raise Unavailable("this element has not claimed its prefix in S3 yet")
        if self.away:
            raise Unavailable("S3 is away")
        return asked(call)


def asked(call: Callable[[], Result]) -> Result:
    """Raises Unavailable for whatever obstore raises, but FileNotFoundError where only the object is missing."""
    try:
        return call()
    except FileNotFoundError as error:
        if NO_BUCKET in str(error):
            raise Unavailable("S3 has no such bucket any more") from error
        raise
    except BaseError as error:
        # In our own words: the library's name addresses and keys, and what is raised here is shown to callers.
        raise Unavailable(WORDS.get(type(error).__name__, "S3 did not answer as it should")) from error


def open_objects(settings: S3Settings) -> S3Store:
    """No connection is made here. Payloads are signed by their SHA-256: S3 refuses what was changed on the way."""
    return S3Store(
        settings.bucket,
        prefix=settings.prefix,
        endpoint=settings.endpoint_url,
        access_key_id=settings.access_key_id,
        secret_access_key=settings.secret_access_key,
        region=settings.region,
        virtual_hosted_style_request=False,
        client_options={
            "allow_http": settings.endpoint_url.startswith("http://"),
            "timeout": timedelta(seconds=settings.timeout_s),
            "connect_timeout": timedelta(seconds=settings.connect_timeout_s),
        },
        retry_config={"max_retries": settings.retries, "retry_timeout": timedelta(seconds=settings.retry_for_s)},
    )


def _is_ours(key: str, file_id: str) -> bool:
    """Its own key, as on a disk: what else people put there is a stray."""
    return is_file_id(file_id) and key in (data_key(file_id), attributes_key(file_id))


def data_key(file_id: str) -> str:
    return f"files/{file_id[-4:-2]}/{file_id[-2:]}/{file_id}"


def attributes_key(file_id: str) -> str:
    return data_key(file_id) + ATTRIBUTES_SUFFIX

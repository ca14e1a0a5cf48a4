"""The objects of one prefix in a bucket, through obstore: its calls, its errors as ours, and reads of an
object in parts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from artstore.errors import Unavailable

from .s3_uploads import MultipartUpload, S3Settings, S3Uploads

if TYPE_CHECKING:
    from obstore import ObjectMeta

Result = TypeVar("Result")

MAX_PARTS = 10_000
"""Limit of S3 for one multipart upload."""
MAX_COPY_BYTES = 5 << 30
"""Limit of S3 for one copy."""
SMALL_TIMEOUT_S = 8.0
"""For a request that carries at most a small file: its caller gives up sooner than for a part."""
LIST_PAGE = 1000
NO_BUCKET = "NoSuchBucket"
"""S3's error code. It must be recognized: a lost bucket must not look like a lost file."""
READ_AHEAD_BYTES = 4 << 20
"""Fetched by a sequential reader in one request. One download holds this much in memory."""
TEXTS = {
    "PermissionDeniedError": "S3 denies access to this element's key",
    "UnauthenticatedError": "S3 does not know this element's key",
    "PreconditionError": "the file was replaced while it was read",
    "AlreadyExistsError": "the object exists in S3 already",
}


class S3Objects:
    """Every call blocks and raises Unavailable while the prefix is not claimed, while S3 is known to be away,
    or when S3 does not answer as it should."""

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        self.claimed = False
        """The prefix is known to belong to this root."""
        self.away = False
        """S3 has missed several checks in a row: calls fail at once instead of waiting for a timeout each."""
        self.uploads = S3Uploads(settings)
        self.store = open_objects(settings)
        self._small = open_objects(replace(settings, timeout_s=min(SMALL_TIMEOUT_S, settings.timeout_s)))

    def find(self, key: str) -> bytes | None:
        """The content of a small object."""
        try:
            return self._call(lambda: bytes(obstore.get(self._small, key).bytes()))
        except FileNotFoundError:
            return None

    def find_meta(self, key: str) -> ObjectMeta | None:
        try:
            return self._call(lambda: obstore.head(self._small, key))
        except FileNotFoundError:
            return None

    def put(self, key: str, content: bytes) -> None:
        """A small object."""
        self._call(lambda: obstore.put(self._small, key, content, use_multipart=False))

    def upload(self, key: str, path: str, size_bytes: int) -> None:
        """A file, in one request or in one for each part. Some parts are in memory at a time, whatever the
        size."""
        part_bytes = self._part_bytes(size_bytes)
        with open(path, "rb") as file:
            self._call(
                lambda: obstore.put(
                    self.store,
                    key,
                    file,
                    use_multipart=size_bytes > part_bytes,
                    chunk_size=part_bytes,
                    max_concurrency=self.settings.parts_at_once,
                )
            )

    def delete(self, key: str) -> None:
        """A missing object is not an error."""
        try:
            self._call(lambda: obstore.delete(self._small, key))
        except FileNotFoundError:
            pass

    def move(self, source: str, target: str, size_bytes: int) -> None:
        """Copy, then delete. An object larger than S3 copies by itself is sent through this process."""
        if size_bytes <= MAX_COPY_BYTES:
            self._call(lambda: obstore.copy(self.store, source, target))
        else:
            pieces = self._call(lambda: obstore.get(self.store, source)).stream(min_chunk_size=self.settings.part_bytes)
            part_bytes = self._part_bytes(size_bytes)
            self._call(lambda: obstore.put(self.store, target, pieces, chunk_size=part_bytes, max_concurrency=1))
        self.delete(source)

    def list_objects(self, folder: str, after: str | None = None) -> Iterator[ObjectMeta]:
        """In the order of their keys, those after the key `after`."""
        pages = self._call(lambda: obstore.list(self.store, folder, offset=after, chunk_size=LIST_PAGE))
        while page := self._call(lambda: next(pages, None)):
            yield from page

    def read_part(self, key: str, etag: str | None, offset: int, end: int) -> bytes:
        """Raises Unavailable also when the object was replaced or removed: never returns another revision's
        bytes."""

        def get() -> bytes:
            return bytes(obstore.get(self.store, key, options={"range": (offset, end), "if_match": etag}).bytes())

        try:
            return self._call(get)
        except FileNotFoundError as error:
            raise Unavailable("the file was removed while it was read") from error

    def unfinished_uploads(self, key: str) -> list[MultipartUpload]:
        """Multipart uploads of keys that begin with `key`."""
        return self._call(lambda: list(self.uploads.unfinished(f"{self.settings.prefix}/{key}")))

    def _part_bytes(self, size_bytes: int) -> int:
        return max(self.settings.part_bytes, -(-size_bytes // MAX_PARTS))

    def _call(self, call: Callable[[], Result]) -> Result:
        if not self.claimed:
            raise Unavailable("this element has not claimed its prefix in S3 yet")
        if self.away:
            raise Unavailable("S3 does not answer")
        return translated(call)


class S3Data:
    """The bytes of one object. Every part names the ETag, so that a reader never gets bytes of two
    revisions."""

    __slots__ = ("_begins", "_etag", "_key", "_objects", "_window", "size_bytes")

    def __init__(self, objects: S3Objects, key: str, etag: str | None, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._objects, self._key, self._etag = objects, key, etag
        self._window = b""
        self._begins = 0

    def version(self) -> Hashable | None:
        return self._etag

    def read_cached(self, offset: int, size_bytes: int) -> bytes | None:
        if size_bytes == 0 or offset >= self.size_bytes:
            return b""
        start = offset - self._begins
        if start < 0 or start + size_bytes > len(self._window):
            return None
        return self._window[start : start + size_bytes]

    def read(self, offset: int, size_bytes: int) -> bytes:
        """The first read fetches what was asked for; a read that continues it reads ahead."""
        continues = bool(self._window) and offset == self._begins + len(self._window)
        end = min(offset + (max(size_bytes, READ_AHEAD_BYTES) if continues else size_bytes), self.size_bytes)
        if end <= offset:
            return b""
        self._window = self._objects.read_part(self._key, self._etag, offset, end)
        self._begins = offset
        return self._window[:size_bytes]

    def drop_cache(self) -> None:
        self._window = b""

    def duplicate(self) -> S3Data:
        return S3Data(self._objects, self._key, self._etag, self.size_bytes)

    def close(self) -> None:
        self._window = b""


def translated(call: Callable[[], Result]) -> Result:
    """Raises Unavailable for every error of obstore, except FileNotFoundError where only the object is
    missing."""
    try:
        return call()
    except FileNotFoundError as error:
        if NO_BUCKET in str(error):
            raise Unavailable("the bucket does not exist any more") from error
        raise
    except BaseError as error:
        # obstore's texts name addresses and keys, and this text is shown to callers.
        raise Unavailable(TEXTS.get(type(error).__name__, "S3 did not answer as it should")) from error


def open_objects(settings: S3Settings) -> S3Store:
    """Opens no connection yet. Payloads are signed by their SHA-256, so S3 refuses bytes that changed on the
    way."""
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

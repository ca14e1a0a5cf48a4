"""Finish: the put of a resumable upload whose bytes are all here. They are linked, not copied, into the temp of the put, so a
put that is rolled back leaves them for the next attempt."""

from __future__ import annotations

from collections.abc import Callable

from artstore.contracts.files import NewFile
from artstore.contracts.storage import GIVEN_UP_REASON
from artstore.errors import Conflict
from artstore.failpoints import failpoint

from . import durable
from .get import find_attributes, unreadable
from .put import PutOrder, PutResult, put
from .receive import Body, Expected, IncomingBody
from .store import Store
from .unfinished import Upload, Uploads, named


class StagedBody(IncomingBody):
    """A body that is on the element's disk already, synced and hashed."""

    __slots__ = ("_path", "_sha256", "_staged_bytes")

    def __init__(self, store: Store, order: PutOrder, path: str, size_bytes: int, sha256: str) -> None:
        super().__init__(store, order.file_id, Body.whole(b"", max_bytes=0), Expected(), order.saga_id)
        self._path, self._staged_bytes, self._sha256 = path, size_bytes, sha256

    @property
    def size_bytes(self) -> int:
        return self._staged_bytes

    @property
    def is_small(self) -> bool:
        return False

    async def receive_head(self) -> None:
        """Nothing is received."""

    def verified_sha256(self) -> str:
        return self._sha256

    async def write_to(self, path: str) -> None:
        await self._store.in_thread(durable.link, self._path, path)
        failpoint("resumable.linked")


async def complete(uploads: Uploads, upload: Upload, saga_id: str, require: Callable[[NewFile], None]) -> PutResult:
    """The file, durable and of an open saga. `require` raises when the element's mode forbids a new file.

    Raises Conflict with GIVEN_UP_REASON for a saga that is not the upload's, else as `put`.
    """
    return await uploads.store.complete(_complete(uploads, upload, saga_id, require))


async def _complete(uploads: Uploads, upload: Upload, saga_id: str, require: Callable[[NewFile], None]) -> PutResult:
    store = uploads.store
    async with uploads.hold(upload):
        record = upload.record
        if record.committed or record.saga_id is None or record.file_id is None:
            raise Conflict("the upload is not waiting for its completion")
        if record.saga_id != saga_id:
            raise Conflict("the upload has another saga now", reason=GIVEN_UP_REASON)
        new, path = named(record.new, record.file_id), store.files.paths.upload(upload.id)
        if await store.query(find_attributes, store, record.file_id) is None:  # else this saga has put it before
            require(new)
        try:
            sha256 = await store.in_thread(upload.hash.read_to, record.offset)
        except OSError as error:
            raise unreadable(store, error, upload.id) from error
        order = PutOrder(record.file_id, new, saga_id)
        return await put(store, order, StagedBody(store, order, path, record.offset, sha256))

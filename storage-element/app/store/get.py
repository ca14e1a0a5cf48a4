"""Reading: attributes and bytes of one revision, whatever changes at the moment, and listings. No reader waits for a writer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from artstore.contracts.files import BYTE_ORDER_MARK, Attributes
from artstore.errors import ArtStoreError, FileDamaged, NotFound, Quarantined, Unavailable
from artstore.logs import get_logger
from artstore.tasks import spawn

from .attributes import UNREADABLE, find_in
from .backends.base import OpenData
from .disk_health import FileUnreadable, explain_read
from .store import Store

log = get_logger("element.store")

MAX_OPEN_TRIES = 5
"""For a file that is replaced again while it is being opened."""
SLOW_READ_S = 0.25
"""How long small files that are read together wait for the slowest of them."""


@dataclass(slots=True)
class OpenedFile:
    """One revision, open; the caller closes it."""

    attributes: Attributes
    encoded: bytes
    data: OpenData
    store: Store

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """Up to `size_bytes` from `offset`. Bytes in the page cache cost no thread hop."""
        try:
            piece = self.data.read_cached(offset, size_bytes)
            if piece is not None:
                return piece
            return await self.store.read_in_thread(self.data.read, offset, size_bytes)
        except OSError as error:
            raise unreadable(self.store, error, self.attributes.file_id) from error

    def close(self) -> None:
        self.data.close()


@dataclass(frozen=True, slots=True)
class WholeFile:
    """One revision. `content` is None when it is larger than the caller wants."""

    attributes: Attributes
    encoded: bytes
    content: bytes | None


async def load_attributes(store: Store, file_id: str) -> tuple[Attributes, bytes]:
    """Decoded, and encoded as on disk. Raises NotFound, Quarantined, Unavailable, FileDamaged."""
    return await store.query(_load_attributes, store, file_id)


async def open_file(store: Store, file_id: str) -> OpenedFile:
    """The caller closes it. Raises as `load_attributes`; FileDamaged when the bytes are missing or of another size.

    In the event loop there is no await between opening attr.json and the data, so no swap can begin in between. In a thread
    the old attributes and the new bytes may be opened: if a swap has begun meanwhile, try again.
    """
    for _ in range(MAX_OPEN_TRIES):
        held = _open_held(store, file_id)
        if held is not None:
            return held
        swaps = store.swaps
        try:
            opened = await store.query(_open_file, store, file_id)
        except FileDamaged:
            if swaps == store.swaps:
                raise
        else:
            if swaps == store.swaps:
                return opened
            opened.close()
    raise Unavailable("the file is being replaced again and again")


async def read_whole_files(
    store: Store, file_ids: Sequence[str], max_bytes: int
) -> list[WholeFile | ArtStoreError | None]:
    """Each file, or its error, in order. None for a file that takes longer than SLOW_READ_S: it must not delay the others."""
    found: list[WholeFile | ArtStoreError | None] = []
    waiting: dict[int, asyncio.Task[WholeFile]] = {}
    for index, file_id in enumerate(file_ids):
        try:
            found.append(_read_in_memory(store, file_id, max_bytes))
        except ArtStoreError as error:
            found.append(error)
        if found[index] is None:
            waiting[index] = spawn("read-whole", _read_whole(store, file_id, max_bytes))
    if waiting:
        await asyncio.wait(waiting.values(), timeout=SLOW_READ_S)
    for index, task in waiting.items():
        if task.done():  # a slower one continues, because a thread is reading its open file
            try:
                found[index] = task.result()
            except ArtStoreError as error:
                found[index] = error
    return found


def find_attributes(store: Store, file_id: str) -> bytes | None:
    """attr.json as stored, damaged or not. Raises FileUnreadable, Unavailable. Blocks."""
    try:
        return store.files.find_attributes(file_id)
    except OSError as error:
        raise unreadable(store, error, file_id) from error


def find_many_attributes(store: Store, file_ids: Sequence[str]) -> list[bytes | None]:
    """attr.json of each file; UNREADABLE for those that the disk cannot read, so that they do not hide the others. Blocks."""
    try:
        return store.files.find_many(file_ids)
    except OSError:
        return [find_attributes_or_unreadable(store, file_id) for file_id in file_ids]


def find_attributes_or_unreadable(store: Store, file_id: str) -> bytes | None:
    """As `find_attributes`, but UNREADABLE instead of FileUnreadable. Blocks."""
    try:
        return find_attributes(store, file_id)
    except FileUnreadable:
        return UNREADABLE


def find_size(store: Store, file_id: str) -> int | None:
    """The size of the file's data in bytes; None when there is none. Raises FileUnreadable, Unavailable. Blocks."""
    try:
        data = store.files.open_data(file_id)
    except OSError as error:
        raise unreadable(store, error, file_id) from error
    if data is None:
        return None
    data.close()
    return data.size_bytes


def has_data(store: Store, file_id: str) -> bool:
    """True also for data that the disk cannot read. Blocks."""
    try:
        return find_size(store, file_id) is not None
    except FileUnreadable:
        return True


def list_files(store: Store, after: str, limit: int) -> tuple[list[Attributes], str | None]:
    """Up to `limit` files after the id `after` ("" for the first), in the order of their folders, and the next cursor. Blocks.

    A damaged or unreadable attr.json is counted and left out.
    """
    listed: list[Attributes] = []
    file_ids = store.files.walk(after)
    while batch := list(islice(file_ids, limit - len(listed))):
        for file_id, encoded in zip(batch, find_many_attributes(store, batch), strict=True):
            if encoded is None:
                continue  # deleted since its folder was read
            attributes = find_in(encoded, file_id)
            if attributes is None:
                store.findings.damaged += encoded is not UNREADABLE
                continue
            listed.append(attributes)
        if len(listed) == limit:
            return listed, batch[-1]
    return listed, None


def unreadable(store: Store, error: OSError, file_id: str) -> ArtStoreError:
    """The typed error of a read that failed, counted and logged. The element still takes writes."""
    explained = explain_read(error, file_id)
    if isinstance(explained, FileUnreadable):
        store.findings.unreadable += 1
        log.error("file unreadable", file_id=file_id, error=str(error))
    return explained


def _load_attributes(store: Store, file_id: str) -> tuple[Attributes, bytes]:
    held = store.swapping.get(file_id)
    if held is None and store.is_removal_pending(file_id):
        raise _not_found(file_id)
    encoded = held.attributes if held is not None else find_attributes(store, file_id)
    if encoded is None:
        if store.files.is_quarantined(file_id):
            raise Quarantined("the file was found damaged and moved to this element's quarantine", file_id=file_id)
        raise _not_found(file_id)
    return _decode(store, encoded, file_id), encoded.removeprefix(BYTE_ORDER_MARK)


def _open_file(store: Store, file_id: str) -> OpenedFile:
    attributes, encoded = _load_attributes(store, file_id)
    try:
        data = store.files.open_data(file_id)
    except OSError as error:
        raise unreadable(store, error, file_id) from error
    if data is None:
        if find_attributes(store, file_id) is None:
            raise _not_found(file_id)
        raise _damaged(store, "its attributes are present, its bytes are missing")
    if data.size_bytes != attributes.size_bytes:
        data.close()
        raise _damaged(store, "its size does not match its attributes")
    return OpenedFile(attributes, encoded, data, store)


def _open_held(store: Store, file_id: str) -> OpenedFile | None:
    """The revision that readers get while the file is being swapped."""
    held = store.swapping.get(file_id)
    if held is None:
        return None
    return OpenedFile(_decode(store, held.attributes, file_id), held.attributes, held.data.duplicate(), store)


def _read_in_memory(store: Store, file_id: str, max_bytes: int) -> WholeFile | None:
    """The file without waiting; None where that is not possible. Raises as `open_file`."""
    if not store.files.nonblocking_reads:
        return None
    opened = _open_held(store, file_id) or _open_file(store, file_id)
    try:
        size_bytes = opened.attributes.size_bytes
        if size_bytes > max_bytes:
            return WholeFile(opened.attributes, opened.encoded, None)
        content = opened.data.read_cached(0, size_bytes)
    except OSError as error:
        raise unreadable(store, error, file_id) from error
    finally:
        opened.close()
    return None if content is None else WholeFile(opened.attributes, opened.encoded, content)


async def _read_whole(store: Store, file_id: str, max_bytes: int) -> WholeFile:
    opened = await open_file(store, file_id)
    try:
        size_bytes = opened.attributes.size_bytes
        if size_bytes > max_bytes:
            return WholeFile(opened.attributes, opened.encoded, None)
        content = await opened.read(0, size_bytes)
    finally:
        opened.close()
    if len(content) != size_bytes:
        raise _damaged(store, "its bytes became fewer while they were read")
    return WholeFile(opened.attributes, opened.encoded, content)


def _decode(store: Store, encoded: bytes, file_id: str) -> Attributes:
    attributes = find_in(encoded, file_id)
    if attributes is None:
        raise _damaged(store, "its attr.json cannot be decoded")
    return attributes


def _not_found(file_id: str) -> NotFound:
    return NotFound("no such file on this element", file_id=file_id)


def _damaged(store: Store, problem: str) -> FileDamaged:
    store.findings.damaged += 1
    return FileDamaged(f"the file is damaged: {problem}")

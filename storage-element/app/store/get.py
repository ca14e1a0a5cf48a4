"""Reading: attributes and bytes of one revision, whatever is being changed at the moment. No reader waits for a writer."""

from __future__ import annotations

from dataclasses import dataclass

from artstore.contracts.files import BYTE_ORDER_MARK, Attributes
from artstore.errors import ArtStoreError, FileDamaged, NotFound, Quarantined, Unavailable
from artstore.logs import get_logger

from .attributes import find_in
from .backends.base import OpenData
from .disk_health import FileUnreadable, explain_read
from .store import Store

log = get_logger("element.store")

LOOKS = 5
"""At a file whose revisions are swapped while somebody looks."""


@dataclass(slots=True)
class Opened:
    """One revision, open; the caller closes it."""

    attributes: Attributes
    encoded: bytes
    data: OpenData
    store: Store

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """Up to `size_bytes` from `offset`. What is in the page cache costs no thread hop."""
        try:
            piece = self.data.read_at_once(offset, size_bytes)
            if piece is not None:
                return piece
            return await self.store.read_in_thread(self.data.read, offset, size_bytes)
        except OSError as error:
            raise unreadable(self.store, error, self.attributes.file_id) from error

    def close(self) -> None:
        self.data.close()


async def load_attributes(store: Store, file_id: str) -> tuple[Attributes, bytes]:
    """Decoded and as they lie on disk. Raises NotFound, Unavailable; FileDamaged for a damaged or unreadable attr.json."""
    return await store.look(_load_attributes, store, file_id)


def unreadable(store: Store, error: OSError, file_id: str) -> ArtStoreError:
    """What to raise for a read that failed. Counted and logged; the element goes on taking writes."""
    explained = explain_read(error, file_id)
    if isinstance(explained, FileUnreadable):
        store.findings.unreadable += 1
        log.error("file unreadable", file_id=file_id, error=str(error))
    return explained


def find_attributes(store: Store, file_id: str) -> bytes | None:
    """attr.json as it lies there. Raises FileUnreadable, Unavailable."""
    try:
        return store.files.find_attributes(file_id)
    except OSError as error:
        raise unreadable(store, error, file_id) from error


async def open_file(store: Store, file_id: str) -> Opened:
    """The caller closes it. Raises as `load_attributes`; FileDamaged when the bytes are gone or of another size.

    A look in the event loop has no await between its two opens, so no swap can begin in the middle. One that was made in a
    thread may have seen the old attributes and the new bytes: where a swap has begun meanwhile, it looks again.
    """
    for _ in range(LOOKS):
        held = store.swapping.get(file_id)
        if held is not None:
            return Opened(_decode(store, held.attributes, file_id), held.attributes, held.data.again(), store)
        swaps = store.swaps
        try:
            opened = await store.look(_open_file, store, file_id)
        except FileDamaged:
            if swaps == store.swaps:
                raise
        else:
            if swaps == store.swaps:
                return opened
            opened.close()
    raise Unavailable("the file is being replaced again and again")


def _load_attributes(store: Store, file_id: str) -> tuple[Attributes, bytes]:
    held = store.swapping.get(file_id)
    if held is None and (owed := store.owed.get(file_id)) is not None and owed.gone:
        raise NotFound("there is no such file here", file_id=file_id)
    encoded = held.attributes if held is not None else find_attributes(store, file_id)
    if encoded is None:
        if store.files.is_aside(file_id):
            raise Quarantined("the file was found damaged and lies in this element's quarantine", file_id=file_id)
        raise NotFound("there is no such file here", file_id=file_id)
    return _decode(store, encoded, file_id), encoded.removeprefix(BYTE_ORDER_MARK)


def _open_file(store: Store, file_id: str) -> Opened:
    attributes, encoded = _load_attributes(store, file_id)
    try:
        data = store.files.open_data(file_id)
    except OSError as error:
        raise unreadable(store, error, file_id) from error
    if data is None:
        if find_attributes(store, file_id) is None:
            raise NotFound("there is no such file here", file_id=file_id)
        raise _damaged(store, "the attributes are there, the bytes are not")
    if data.size_bytes != attributes.size_bytes:
        data.close()
        raise _damaged(store, "the bytes are not as many as the attributes say")
    return Opened(attributes, encoded, data, store)


def _decode(store: Store, encoded: bytes, file_id: str) -> Attributes:
    attributes = find_in(encoded, file_id)
    if attributes is None:
        raise _damaged(store, "attr.json is damaged")
    return attributes


def _damaged(store: Store, what: str) -> FileDamaged:
    store.findings.damaged += 1
    return FileDamaged(f"the file is damaged: {what}")

"""Reading: attributes and bytes of one revision, whatever is being changed at the moment. No reader waits for a writer."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from artstore.contracts.files import Attributes
from artstore.errors import InternalError, NotFound

from .attributes import find_in
from .store import Store

NO_PAGE = frozenset({errno.EAGAIN, errno.EOPNOTSUPP})
"""preadv2 with RWF_NOWAIT: not in the page cache, or the file system cannot tell."""


@dataclass(slots=True)
class Opened:
    """One revision, open. The descriptor keeps its bytes readable even when the file is replaced or deleted meanwhile."""

    attributes: Attributes
    encoded: bytes
    fd: int
    store: Store

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """Up to `size_bytes` from `offset`. What is in the page cache costs no thread hop."""
        buffer = bytearray(size_bytes)
        try:
            took = os.preadv(self.fd, [buffer], offset, os.RWF_NOWAIT)
            if took == size_bytes:
                return bytes(buffer)
        except OSError as error:
            if error.errno not in NO_PAGE:
                raise self.store.failing.explain(error) from error
        return await self.store.in_thread(os.pread, self.fd, size_bytes, offset)

    def close(self) -> None:
        os.close(self.fd)


def load_attributes(store: Store, file_id: str) -> tuple[Attributes, bytes]:
    """Decoded and as they lie on disk. Raises NotFound; InternalError for a damaged attr.json."""
    held = store.swapping.get(file_id)
    encoded = held.attributes if held is not None else store.files.find_attributes(file_id)
    if encoded is None:
        raise NotFound("there is no such file here", file_id=file_id)
    return _decode(store, encoded, file_id), encoded


def open_file(store: Store, file_id: str) -> Opened:
    """The caller closes it. Both opens happen without an await between: no swap can begin in the middle."""
    attributes, encoded = load_attributes(store, file_id)
    held = store.swapping.get(file_id)
    fd = os.dup(held.fd) if held is not None else store.files.open_data(file_id)
    if fd is None:
        if store.files.find_attributes(file_id) is None:
            raise NotFound("there is no such file here", file_id=file_id)
        raise _damaged(store, "the attributes are there, the bytes are not")
    if os.fstat(fd).st_size != attributes.size_bytes:
        os.close(fd)
        raise _damaged(store, "the bytes are not as many as the attributes say")
    return Opened(attributes, encoded, fd, store)


def _decode(store: Store, encoded: bytes, file_id: str) -> Attributes:
    attributes = find_in(encoded, file_id)
    if attributes is None:
        raise _damaged(store, "attr.json is damaged")
    return attributes


def _damaged(store: Store, what: str) -> InternalError:
    store.findings.damaged += 1
    return InternalError(f"the file is damaged: {what}")

"""The files of an element in the order of their folders, a page at a time, straight from the backend."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from artstore.contracts.files import Attributes

from .attributes import UNREADABLE, find_in
from .disk_health import FileUnreadable
from .get import find_attributes
from .store import Store


def read_many(store: Store, file_ids: Sequence[str]) -> list[bytes | None]:
    """attr.json of each. One that the disk does not give is UNREADABLE, and hides no other. Blocks."""
    try:
        return store.files.find_many(file_ids)
    except OSError:
        return [_read(store, file_id) for file_id in file_ids]


def _read(store: Store, file_id: str) -> bytes | None:
    try:
        return find_attributes(store, file_id)
    except FileUnreadable:
        return UNREADABLE


def list_files(store: Store, after: str, limit: int) -> tuple[list[Attributes], str | None]:
    """Up to `limit` files after the id `after` ("" for the first), and the id to go on from. Blocks: call it in a thread.

    A damaged or unreadable attr.json is counted and left out.
    """
    found: list[Attributes] = []
    file_ids = store.files.walk(after)
    while batch := list(islice(file_ids, limit - len(found))):
        for file_id, encoded in zip(batch, read_many(store, batch), strict=True):
            if encoded is None:
                continue  # deleted since its folder was read
            attributes = find_in(encoded, file_id)
            if attributes is None:
                store.findings.damaged += encoded is not UNREADABLE
                continue
            found.append(attributes)
        if len(found) == limit:
            return found, batch[-1]
    return found, None

"""The files of an element in the order of their folders, a page at a time, straight from the backend."""

from __future__ import annotations

from itertools import islice

from artstore.contracts.files import Attributes

from .attributes import find_in
from .store import Store


def list_files(store: Store, after: str, limit: int) -> tuple[list[Attributes], str | None]:
    """Up to `limit` files after the id `after` ("" for the first), and the id to go on from. Blocks: call it in a thread.

    A damaged attr.json is counted and left out.
    """
    found: list[Attributes] = []
    file_ids = store.files.walk(after)
    while batch := list(islice(file_ids, limit - len(found))):
        for file_id, encoded in zip(batch, store.files.find_many(batch), strict=True):
            if encoded is None:
                continue  # deleted since its folder was read
            attributes = find_in(encoded, file_id)
            if attributes is None:
                store.findings.damaged += 1
                continue
            found.append(attributes)
        if len(found) == limit:
            return found, batch[-1]
    return found, None

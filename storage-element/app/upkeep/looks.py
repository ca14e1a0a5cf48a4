"""Looks at the disk that no damage stops. All block: call them in a thread."""

from __future__ import annotations

from collections.abc import Sequence

from ..store.store import Store

UNREADABLE = b""
"""Stands for an attr.json that the disk does not give: no attributes can be read from it either."""


def read_many(store: Store, file_ids: Sequence[str]) -> list[bytes | None]:
    """attr.json of each. One that cannot be read must not hide the others."""
    try:
        return store.files.find_many(file_ids)
    except OSError:
        return [_read(store, file_id) for file_id in file_ids]


def data_bytes_of(store: Store, file_id: str) -> int | None:
    data = store.files.open_data(file_id)
    if data is None:
        return None
    data.close()
    return data.size_bytes


def _read(store: Store, file_id: str) -> bytes | None:
    try:
        return store.files.find_attributes(file_id)
    except OSError:
        return UNREADABLE

"""Looks at the disk that no damage stops. All block: call them in a thread."""

from __future__ import annotations

from collections.abc import Sequence

from ..store.attributes import find_in
from ..store.disk_health import FileUnreadable
from ..store.get import unreadable
from ..store.listing import read_many
from ..store.store import Store


def data_bytes_of(store: Store, file_id: str) -> int | None:
    """None without data. Raises FileUnreadable."""
    try:
        data = store.files.open_data(file_id)
    except OSError as error:
        raise unreadable(store, error, file_id) from error
    if data is None:
        return None
    data.close()
    return data.size_bytes


def has_data(store: Store, file_id: str) -> bool:
    """Also data that the disk does not give."""
    try:
        return data_bytes_of(store, file_id) is not None
    except FileUnreadable:
        return True


def find_whole(store: Store, file_ids: Sequence[str]) -> set[str]:
    """Those that a rebuild gives a row: a damaged file, or one of another element, has none by the element's own doing."""
    whole = set()
    for file_id, content in zip(file_ids, read_many(store, file_ids), strict=True):
        attributes = None if content is None else find_in(content, file_id)
        if attributes is None or attributes.storage_element_id != store.element_id:
            continue
        try:
            if data_bytes_of(store, file_id) == attributes.size_bytes:
                whole.add(file_id)
        except FileUnreadable:
            pass
    return whole

"""Looks at the disk that no damage stops. All block: call them in a thread."""

from __future__ import annotations

from ..store.failing import FileUnreadable
from ..store.get import unreadable
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

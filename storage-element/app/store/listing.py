"""The files of an element in the order of their folders, a page at a time, straight from the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator

from artstore.contracts.files import Attributes

from .attributes import find_in
from .paths import ATTRIBUTES_SUFFIX, FAN_OUT
from .store import Store


def list_files(store: Store, after: str, limit: int) -> tuple[list[Attributes], str | None]:
    """Up to `limit` files after the id `after` ("" for the first), and the id to go on from. Blocks: call it in a thread.

    A damaged attr.json is counted and left out.
    """
    found: list[Attributes] = []
    for file_id in walk(store.files.paths.files, after):
        encoded = store.files.find_attributes(file_id)
        if encoded is None:
            continue  # deleted since its folder was read
        attributes = find_in(encoded, file_id)
        if attributes is None:
            store.findings.damaged += 1
            continue
        found.append(attributes)
        if len(found) == limit:
            return found, file_id
    return found, None


def walk(files: str, after: str = "") -> Iterator[str]:
    """File ids with an attr.json, by folder and then by name: the order does not change under concurrent puts."""
    start = (after[-4:-2], after[-2:], after)
    for first in FAN_OUT:
        if first < start[0]:
            continue
        for second in sorted(_names(f"{files}/{first}")):
            if (first, second) < start[:2]:
                continue
            for name in sorted(_names(f"{files}/{first}/{second}")):
                file_id = name.removesuffix(ATTRIBUTES_SUFFIX)
                if file_id != name and (first, second, file_id) > start:
                    yield file_id


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []

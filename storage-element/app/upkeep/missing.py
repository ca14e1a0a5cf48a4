"""The other half of a rebuild: rows of this element whose file is gone leave the catalog, unless far too many would."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack

from artstore.contracts.events import FileChanged

from ..store.listing import read_many
from ..store.store import Store
from .aside import Found, put_aside
from .looks import has_data
from .rows import FIRST_ID, Corrections, Rows

PAGE = 4096


async def find_missing(store: Store, rows: Rows) -> list[str]:
    """Ids in the catalog, of this element, without an attr.json on its disk. Raises Unavailable."""
    missing: list[str] = []
    after = FIRST_ID
    while page := await rows.page(after, PAGE):
        ids = [file_id for file_id, _ in page]
        encoded = await store.scan_in_thread(read_many, store, ids)
        missing += [file_id for file_id, content in zip(ids, encoded, strict=True) if content is None]
        after = ids[-1]
    return missing


async def forget_missing(store: Store, rows: Rows, found: Found, file_ids: Sequence[str]) -> tuple[int, list[str]]:
    """At most align.AT_ONCE of them: how many rows went, and the ids that an operation held.

    Data whose attributes are gone is put aside.
    """
    busy = [file_id for file_id in file_ids if not store.locks.is_free(file_id)]
    async with AsyncExitStack() as locks:
        held = [file_id for file_id in file_ids if store.locks.is_free(file_id)]
        for file_id in held:
            await locks.enter_async_context(store.locks.hold(file_id))  # free: does not wait
        encoded = await store.scan_in_thread(read_many, store, held)
        known = await rows.find(held)
        corrections = Corrections()
        for file_id, content in zip(held, encoded, strict=True):
            row = known.get(file_id)
            if content is not None or row is None or row.storage_element_id != store.element_id:
                continue
            if await store.scan_in_thread(has_data, store, file_id):
                await found.note("rebuild", file_id, "attributes_missing", await put_aside(store, file_id, None))
            corrections.gone.append(
                FileChanged(
                    file_id=file_id, revision=row.revision, change="delete", storage_element_id=store.element_id
                )
            )
        await rows.correct(corrections)
    return len(corrections.gone), busy


def is_mounted(store: Store) -> bool:
    """Whether the root's path still leads to the folder that was opened, and that is an element's."""
    paths = store.files.paths
    try:
        now, opened = os.stat(paths.root), os.fstat(store.root_fd)
    except OSError:
        return False
    return (now.st_dev, now.st_ino) == (opened.st_dev, opened.st_ino) and os.path.isdir(paths.files)

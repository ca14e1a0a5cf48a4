"""Recount files and bytes on the disk, while puts and deletes go on, after a start that could not trust the
log's figures."""

from __future__ import annotations

import asyncio
from collections import deque

from artstore.logs import get_logger

from ..store.backends.base import FileEntry
from ..store.paths import FAN_OUT, folder_of
from ..store.space import Recount
from ..store.store import Store

log = get_logger("element.upkeep")

PAUSE_S = 0.01
"""Between two surveys, so that requests get processor time too."""
RETRY_PAUSE_S = 0.2


async def recount(store: Store) -> None:
    """Ends when every folder was surveyed once while none of its files was being changed; a long upload
    delays it."""
    count = store.usage.recount = Recount()
    try:
        waiting = deque(FAN_OUT)
        while waiting:
            first = waiting.popleft()
            with store.locks.watch() as locked:
                entries = await store.scan_in_thread(store.files.survey, first)
            if _add_unchanged(count, first, entries, locked):
                await asyncio.sleep(PAUSE_S)
            else:
                waiting.append(first)
                await asyncio.sleep(RETRY_PAUSE_S if len(waiting) < len(FAN_OUT) // 2 else PAUSE_S)
        before = (store.usage.files, store.usage.bytes_used)
        store.usage.replace(count.files, count.bytes_used, exact=True)
        log.info("usage counted", files=count.files, bytes_used=count.bytes_used, was=before)
    finally:
        store.usage.recount = None


def _add_unchanged(count: Recount, first: str, entries: list[FileEntry], locked: set[str]) -> bool:
    """Add the folders in which nothing was changed. True when all of files/<first>/ is counted."""
    sums: dict[str, list[int]] = {f"{first}/{second}": [0, 0] for second in FAN_OUT}
    for entry in entries:
        if entry.has_attributes and entry.data_bytes is not None:
            folder = sums[folder_of(entry.file_id)]
            folder[0] += 1
            folder[1] += max(0, entry.data_bytes)
    changed = {folder_of(file_id) for file_id in locked}
    for name, (files, size_bytes) in sums.items():
        if name not in changed and not count.has(name):
            count.add_folder(name, files, size_bytes)
    return all(count.has(name) for name in sums)

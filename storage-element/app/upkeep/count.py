"""Counts files and bytes on the disk again, beside puts and deletes, after a start that could not trust the log's figures."""

from __future__ import annotations

import asyncio
from collections import deque

from artstore.logs import get_logger

from ..store.backends.base import Seen
from ..store.counting import Counting
from ..store.paths import FAN_OUT, folder_of
from ..store.store import Store

log = get_logger("element.upkeep")

PAUSE_S = 0.01
"""Between two looks, so that requests have the processor too."""
RETRY_PAUSE_S = 0.2


async def count(store: Store) -> None:
    """Ends when every folder was seen once while none of its files was being changed; a long upload makes it wait."""
    counting = store.usage.counting = Counting()
    try:
        waiting = deque(FAN_OUT)
        while waiting:
            first = waiting.popleft()
            with store.locks.watch() as locked:
                seen = await store.scan_in_thread(store.files.survey, first)
            if _take(counting, first, seen, locked):
                await asyncio.sleep(PAUSE_S)
            else:
                waiting.append(first)
                await asyncio.sleep(RETRY_PAUSE_S if len(waiting) < len(FAN_OUT) // 2 else PAUSE_S)
        was = (store.usage.files, store.usage.bytes_used)
        store.usage.take_over(counting.files, counting.bytes_used, exact=True)
        log.info("usage counted", files=counting.files, bytes_used=counting.bytes_used, was=was)
    finally:
        store.usage.counting = None


def _take(counting: Counting, first: str, seen: list[Seen], locked: set[str]) -> bool:
    """Count the folders in which nothing moved. True when all of `first` is counted."""
    sums: dict[str, list[int]] = {f"{first}/{second}": [0, 0] for second in FAN_OUT}
    for one in seen:
        if one.has_attributes and one.data_bytes is not None:
            folder = sums[folder_of(one.file_id)]
            folder[0] += 1
            folder[1] += max(0, one.data_bytes)
    moved = {folder_of(file_id) for file_id in locked}
    for name, (files, size_bytes) in sums.items():
        if name not in moved and not counting.has(name):
            counting.take(name, files, size_bytes)
    return all(counting.has(name) for name in sums)

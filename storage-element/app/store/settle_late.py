"""Steps 5 to 7 of short uploads, behind the answer and for many files at once.

The commit of a short upload follows its put within milliseconds and writes the whole row. So a little later one
statement asks which rows are there, and only the others are written, as `pending`, for admin to resolve. Until then the
intents stay open, as those of changes do while the catalog is unavailable (pending.py).
"""

from __future__ import annotations

import asyncio
import itertools

from artstore.errors import Unavailable
from artstore.failpoints import failpoint

from .pending import settle_open
from .store import LateRow, Store
from .wal.log import OpenIntent

ROUND_S = 0.2
AFTER_S = 0.1
"""Younger files wait for the next round. Longer than most commits take: a row that is written before its commit is
written twice."""
MAX_LATE = 1024
"""Their intents must fit into a checkpoint, beside the unconfirmed files."""


def may_settle_late(store: Store) -> bool:
    """False while the catalog does not answer: then a put is refused, instead of leaving a file that must be undone."""
    return store.catalog.answers and len(store.late) < MAX_LATE


def settle_late(store: Store, file_id: str, intent: OpenIntent) -> None:
    """Called with the file's lock held. A later operation of the file settles it too."""
    store.unsettled.setdefault(file_id, []).append(intent)
    store.late[file_id] = LateRow(intent, asyncio.get_running_loop().time())
    store.late_waits.set()


async def keep_settling(store: Store) -> None:
    """Runs for as long as the store is open."""
    while True:
        await store.late_waits.wait()
        await asyncio.sleep(ROUND_S)
        await settle_late_rows(store, before_s=asyncio.get_running_loop().time() - AFTER_S)
        if not store.late:
            store.late_waits.clear()


async def settle_late_rows(store: Store, *, before_s: float = float("inf")) -> None:
    """One round, over the files put before then. `settle_all` repeats those that cannot be settled now."""
    due = dict(itertools.takewhile(lambda item: item[1].since_s <= before_s, store.late.items()))
    for file_id in due:
        del store.late[file_id]
    due = {file_id: row for file_id, row in due.items() if store.unsettled.get(file_id) == [row.intent]}
    if not due:
        return
    try:
        available = await store.catalog.find_available(list(due))
    except Unavailable:
        return
    failpoint("late.found")
    missing = []
    for file_id, row in due.items():
        # An operation of the file that runs now settles it itself, and one that has ended has done so.
        if store.unsettled.get(file_id) != [row.intent] or not store.locks.is_free(file_id):
            continue
        if file_id in available:
            del store.unsettled[file_id]
            store.wal.close_intent(row.intent)
        else:
            missing.append(file_id)
    await asyncio.gather(*(settle_open(store, file_id) for file_id in missing))

"""Steps 5 to 7 of short uploads, behind the answer and for many files at once.

The commit of a short upload follows its put within milliseconds, that of a batch at the end of its body, and writes the
whole row. So a little later one statement asks which rows are there, and only those that do not come are written, as
`pending`, for admin to resolve. Until then the intents stay open, as those of changes do while the catalog is
unavailable (pending.py).
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager

from artstore.contracts.files import MAX_ATTRIBUTES_BYTES
from artstore.errors import Unavailable
from artstore.failpoints import failpoint
from artstore.tracing import MAX_LINKS, begin_work, current_link, root_span

from .pending import settle_open
from .store import LateRow, Store
from .wal.log import OpenIntent

ROUND_S = 0.2
ASK_AFTER_S = 0.1
"""Younger files wait for the next round: most commits have come by then."""
WRITE_AFTER_S = 1.0
"""The commit of a batch comes at the end of its body. A row that is written before its commit is written twice."""
RECORD_BYTES = 256
"""Size of an intent in a checkpoint, beside its attributes: ids, temp, lengths; rounded up."""
MOST_BYTES = RECORD_BYTES + MAX_ATTRIBUTES_BYTES


def may_settle_late(store: Store) -> bool:
    """False while the catalog does not answer: then a put is refused, instead of leaving a file that must be undone. Also
    while so many files wait that their intents may not fit into a checkpoint, beside the unconfirmed files."""
    return store.catalog.answers and store.late_bytes <= store.wal.max_late_bytes - MOST_BYTES


@contextmanager
def reserve_late(store: Store, files: int) -> Iterator[None]:
    """While so many files are on the way to `settle_late`, others have less space."""
    store.late_bytes += files * MOST_BYTES
    try:
        yield
    finally:
        store.late_bytes -= files * MOST_BYTES


def settle_late(store: Store, file_id: str, intent: OpenIntent) -> None:
    """Called with the file's lock held. A later operation of the file settles it too."""
    _forget(store, file_id)  # of a file that was removed since
    store.unsettled.setdefault(file_id, []).append(intent)
    store.late[file_id] = LateRow(intent, asyncio.get_running_loop().time(), current_link())
    store.late_bytes += _size(intent)
    store.late_waits.set()


async def keep_settling(store: Store) -> None:
    """Runs for as long as the store is open."""
    while True:
        await store.late_waits.wait()
        await asyncio.sleep(ROUND_S)
        begin_work("late rows")
        now_s = asyncio.get_running_loop().time()
        await settle_late_rows(store, ask_before_s=now_s - ASK_AFTER_S, write_before_s=now_s - WRITE_AFTER_S)
        if not store.late:
            store.late_waits.clear()


async def settle_late_rows(store: Store, *, ask_before_s: float = math.inf, write_before_s: float = math.inf) -> None:
    """One round, over the files put before `ask_before_s`. Those without a row are written if they were put before
    `write_before_s`, else they wait further. `settle_all` repeats those that cannot be settled now."""
    due = dict(itertools.takewhile(lambda item: item[1].since_s <= ask_before_s, store.late.items()))
    if not due:
        return
    puts = [row.put for row in due.values() if row.put is not None]
    with root_span("put.settle", {"artstore.files": len(due)}, links=puts[:MAX_LINKS]):
        await _settle_due(store, due, write_before_s)


async def _settle_due(store: Store, due: dict[str, LateRow], write_before_s: float) -> None:
    try:
        available = await store.catalog.find_available(list(due))
    except Unavailable:
        for file_id in due:
            _forget(store, file_id)
        return
    failpoint("late.found")
    missing = []
    for file_id, row in due.items():
        # An operation of the file that runs now settles it itself, and one that has ended has done so.
        is_open = store.unsettled.get(file_id) == [row.intent] and store.locks.is_free(file_id)
        if is_open and file_id not in available and row.since_s > write_before_s:
            continue
        _forget(store, file_id)
        if is_open and file_id in available:
            del store.unsettled[file_id]
            store.wal.close_intent(row.intent)
        elif is_open:
            missing.append(file_id)
    await asyncio.gather(*(settle_open(store, file_id) for file_id in missing))


def _forget(store: Store, file_id: str) -> None:
    row = store.late.pop(file_id, None)
    if row is not None:
        store.late_bytes -= _size(row.intent)


def _size(intent: OpenIntent) -> int:
    return RECORD_BYTES + len(intent.record.attributes)

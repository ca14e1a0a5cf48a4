"""Work that could not be finished at once: rows while PostgreSQL is unavailable, and decided changes of files while S3 is.

The intents of such work stay open. It is done before anything else happens to the file, and repeated by `settle_all`. A local
disk never has pending changes. All functions but `settle_all` and `settle_open` expect the caller to hold the file's lock.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable

from artstore.contracts.events import Change
from artstore.errors import FileDamaged, Unavailable
from artstore.failpoints import failpoint
from artstore.logs import get_logger
from artstore.tracing import span

from .attributes import find_in
from .catalog import RowRefused
from .get import find_attributes
from .progress import Progress
from .store import FileChange, PendingWork, Store
from .wal.log import OpenIntent
from .wal.records import PUTS, Kind

log = get_logger("element.store")


class SettleOutcome(enum.Enum):
    SETTLED = "settled"
    STUCK = "stuck"
    """This file cannot be settled now; others can."""
    UNAVAILABLE = "unavailable"
    """Catalog or backend do not answer: no file can be settled."""


async def do_or_defer(store: Store, intent: OpenIntent, work: Callable[[], None], *, removes: bool = False) -> None:
    """Make a decided change. Raises Unavailable when the backend does not answer: then the change is pending."""
    try:
        await store.in_thread(work)
    except Unavailable:
        defer(store, intent.record.file_id, [intent], PendingWork(work, removes))
        raise


def defer(store: Store, file_id: str, intents: Iterable[OpenIntent], work: PendingWork) -> None:
    store.pending[file_id] = work
    store.unsettled.setdefault(file_id, []).extend(intents)
    failpoint("pending.kept")


async def make_pending_change(store: Store, file_id: str) -> None:
    """Make the pending change of this file, if there is one. Raises Unavailable while the backend does not answer."""
    pending = store.pending.get(file_id)
    if pending is None:
        return
    store.require_confirmed()
    await store.in_thread(pending.run)
    failpoint("pending.settled")
    del store.pending[file_id]
    held = store.swapping.pop(file_id, None)
    if held is not None:
        held.data.close()


async def settle(store: Store, file_id: str, intent: OpenIntent) -> bool:
    """Record the change in the audit log, bring the catalog's row in line with the disk, then close the intent.

    False: `settle_all` writes the row later. Raises Unavailable when the audit log cannot take the change, which is made but
    must not be acknowledged yet; `settle_all` records it.
    """
    store.unsettled.setdefault(file_id, []).append(intent)
    await _record(store, intent)
    return await _settle(store, file_id) is SettleOutcome.SETTLED


async def _record(store: Store, opened: OpenIntent) -> None:
    """Puts and undecided rewrites are left out."""
    record = opened.record
    if not record.account or opened.recorded:
        return
    if record.kind is Kind.DELETE:
        change = FileChange("delete", record.file_id, record.account, record.revision, record.size_bytes)
    else:
        encoded = opened.decided.attributes if opened.decided is not None else record.attributes
        attributes = find_in(encoded, record.file_id) if encoded else None
        if attributes is None:
            return
        change = FileChange("update", record.file_id, record.account, attributes.revision, attributes.size_bytes)
    with span("audit.record"):
        await store.record_change(change)
    opened.recorded = True
    failpoint("settle.recorded")


async def settle_all(store: Store, progress: Progress | None = None) -> None:
    """One round over all unsettled files. Ends at the first sign that catalog or backend do not answer; a file that cannot be
    read, or whose row the catalog refuses, waits for the next round and delays no other."""
    for file_id in list(store.unsettled):
        if progress is not None:
            progress.step()
        if file_id not in store.late and await settle_open(store, file_id) is SettleOutcome.UNAVAILABLE:
            return


async def settle_open(store: Store, file_id: str) -> SettleOutcome:
    """Takes the file's lock; the file may have been settled meanwhile."""
    async with store.locks.hold(file_id):
        return await _settle(store, file_id) if file_id in store.unsettled else SettleOutcome.SETTLED


async def require_settled(store: Store, file_id: str) -> None:
    """Raises Unavailable while an earlier change of this file cannot be finished."""
    if file_id in store.unsettled and await _settle(store, file_id) is not SettleOutcome.SETTLED:
        raise Unavailable("an earlier change of this file is not finished yet")


async def _settle(store: Store, file_id: str) -> SettleOutcome:
    """Writes what the disk says, not what memory says: so it may come late, may be repeated, and is right after any change."""
    waiting = store.unsettled[file_id]
    try:
        await make_pending_change(store, file_id)
        for opened in waiting:
            await _record(store, opened)
        encoded = await store.query(find_attributes, store, file_id)
        attributes = find_in(encoded, file_id) if encoded is not None else None
        if attributes is not None:
            unconfirmed = store.unconfirmed.get(file_id)
            change: Change = "put" if waiting[-1].record.kind in PUTS else "update"
            saga_id = unconfirmed.saga_id if unconfirmed else None
            await store.catalog.note(attributes, saga_id=saga_id, change=change)
        else:
            revision = max(opened.record.revision for opened in waiting) + 1
            await store.catalog.forget(file_id, revision=revision)
    except (RowRefused, FileDamaged) as error:
        if file_id not in store.stuck:
            store.stuck.add(file_id)
            log.error(
                "file cannot be settled",
                file_id=file_id,
                error=error.detail,
                reason=error.fields.get("reason"),
            )
        return SettleOutcome.STUCK
    except Unavailable:
        return SettleOutcome.UNAVAILABLE
    failpoint("settle.noted")
    store.catalog.notify()
    store.stuck.discard(file_id)
    del store.unsettled[file_id]
    for opened in waiting:
        store.wal.close_intent(opened)
    return SettleOutcome.SETTLED

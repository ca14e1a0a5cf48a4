"""Bring the catalog's row of one file in line with the disk: the end of every operation that could not do so at once.

Asks the disk and not its memory what to say, so it may be repeated, may come late, and is right after any later change.
The caller holds the file's lock.
"""

from __future__ import annotations

from artstore.contracts.events import Change
from artstore.errors import Unavailable
from artstore.points import hit

from .attributes import find_in
from .owing import pay
from .records import PUTS
from .store import Store
from .wal import Begun


async def settle(store: Store, file_id: str, begun: Begun) -> bool:
    """Close `begun` once catalog and event are written. False when catalog or backend is away: `settle_all` goes on with it."""
    waiting = store.unsettled.setdefault(file_id, [])
    waiting.append(begun)
    return await _try(store, file_id)


async def settle_all(store: Store) -> None:
    """One round over what the catalog still has to be told. Stops at the first sign that it is still away."""
    for file_id in list(store.unsettled):
        async with store.locks.hold(file_id):
            if file_id in store.unsettled and not await _try(store, file_id):
                return


async def require_settled(store: Store, file_id: str) -> None:
    """Raises Unavailable while something about this file cannot be brought to its end."""
    if file_id in store.unsettled and not await _try(store, file_id):
        raise Unavailable("an earlier change of this file is not finished yet")


async def _try(store: Store, file_id: str) -> bool:
    waiting = store.unsettled[file_id]
    try:
        await pay(store, file_id)
        encoded = await store.look(store.files.find_attributes, file_id)
        attributes = find_in(encoded, file_id) if encoded is not None else None
        if attributes is not None:
            unconfirmed = store.unconfirmed.get(file_id)
            change: Change = "put" if waiting[-1].intent.kind in PUTS else "update"
            saga_id = unconfirmed.saga_id if unconfirmed else None
            await store.catalog.note(attributes, saga_id=saga_id, change=change)
        else:
            revision = max(begun.intent.revision for begun in waiting) + 1
            await store.catalog.forget(file_id, revision=revision)
    except Unavailable:
        return False
    hit("settle.noted")
    store.catalog.notify()
    del store.unsettled[file_id]
    for begun in waiting:
        store.wal.close_intent(begun)
    return True

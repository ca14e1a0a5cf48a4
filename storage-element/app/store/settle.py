"""Bring the catalog's row of one file in line with the disk: the end of every operation that could not do so at once.

Asks the disk and not its memory what to say, so it may be repeated, may come late, and is right after any later change.
The caller holds the file's lock.
"""

from __future__ import annotations

import enum

from artstore.contracts.events import Change
from artstore.errors import FileDamaged, Unavailable
from artstore.failpoints import failpoint
from artstore.logs import get_logger

from .attributes import find_in
from .catalog import RowRefused
from .get import find_attributes
from .owing import pay
from .store import Store
from .wal.log import OpenIntent
from .wal.records import PUTS

log = get_logger("element.store")


class Tried(enum.Enum):
    SETTLED = "settled"
    STUCK = "stuck"
    """By this file alone."""
    AWAY = "away"
    """So will be all others."""


async def settle(store: Store, file_id: str, begun: OpenIntent) -> bool:
    """Close `begun` once catalog and event are written. False when catalog or backend is away: `settle_all` goes on with it."""
    waiting = store.unsettled.setdefault(file_id, [])
    waiting.append(begun)
    return await _try(store, file_id) is Tried.SETTLED


async def settle_all(store: Store) -> None:
    """One round over what the catalog still has to be told. Stops at the first sign that it is still away; a file that cannot
    be read, or whose row the catalog refuses, waits for the next round and holds up no other."""
    for file_id in list(store.unsettled):
        async with store.locks.hold(file_id):
            if file_id in store.unsettled and await _try(store, file_id) is Tried.AWAY:
                return


async def require_settled(store: Store, file_id: str) -> None:
    """Raises Unavailable while something about this file cannot be brought to its end."""
    if file_id in store.unsettled and await _try(store, file_id) is not Tried.SETTLED:
        raise Unavailable("an earlier change of this file is not finished yet")


async def _try(store: Store, file_id: str) -> Tried:
    waiting = store.unsettled[file_id]
    try:
        await pay(store, file_id)
        encoded = await store.look(find_attributes, store, file_id)
        attributes = find_in(encoded, file_id) if encoded is not None else None
        if attributes is not None:
            unconfirmed = store.unconfirmed.get(file_id)
            change: Change = "put" if waiting[-1].intent.kind in PUTS else "update"
            saga_id = unconfirmed.saga_id if unconfirmed else None
            await store.catalog.note(attributes, saga_id=saga_id, change=change)
        else:
            revision = max(begun.intent.revision for begun in waiting) + 1
            await store.catalog.forget(file_id, revision=revision)
    except (RowRefused, FileDamaged) as error:
        if file_id not in store.stuck:
            store.stuck.add(file_id)
            log.error(
                "a change waits for this file or its row",
                file_id=file_id,
                error=error.detail,
                reason=error.fields.get("reason"),
            )
        return Tried.STUCK
    except Unavailable:
        return Tried.AWAY
    failpoint("settle.noted")
    store.catalog.notify()
    store.stuck.discard(file_id)
    del store.unsettled[file_id]
    for begun in waiting:
        store.wal.close_intent(begun)
    return Tried.SETTLED

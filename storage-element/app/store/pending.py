"""What was decided about a file and its backend has not taken, because it is away: kept, done before anything else happens
to that file, and repeated by `settle` until it is done. A local disk is never away, and owes nothing.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby

from artstore.contracts.events import Change
from artstore.errors import FileDamaged, Unavailable
from artstore.failpoints import failpoint
from artstore.logs import get_logger

from . import durable
from .attributes import find_in
from .catalog import RowRefused
from .get import find_attributes
from .paths import ATTRIBUTES_SUFFIX
from .store import PendingWork, Store
from .wal.log import OpenIntent
from .wal.records import PUTS, Kind
from .wal.replay import UNKNOWN, Operation


async def apply(store: Store, begun: OpenIntent, work: Callable[[], None], *, gone: bool = False) -> None:
    """Do what the log has decided. Raises Unavailable when the backend is away: then it is owed."""
    try:
        await store.in_thread(work)
    except Unavailable:
        owe(store, [begun], begun.intent.file_id, PendingWork(work, gone))
        raise


def owe(store: Store, begun: Iterable[OpenIntent], file_id: str, owed: PendingWork) -> None:
    store.owed[file_id] = owed
    store.unsettled.setdefault(file_id, []).extend(begun)
    failpoint("owing.kept")


async def pay(store: Store, file_id: str) -> None:
    """The caller holds the file's lock. Raises Unavailable while the backend is away."""
    owed = store.owed.get(file_id)
    if owed is None:
        return
    store.require_confirmed()
    await store.in_thread(owed.work)
    failpoint("owing.paid")
    del store.owed[file_id]
    held = store.swapping.pop(file_id, None)
    if held is not None:
        held.data.close()


def owe_unresolved(store: Store, operations: list[Operation]) -> None:
    """At start: what a crash or an outage left open. Nothing of it is done here, so a start does not need the backend."""
    by_file = sorted(operations, key=lambda operation: (operation.intent.file_id, operation.number))
    for file_id, group in groupby(by_file, key=lambda operation: operation.intent.file_id):
        of_file = list(group)
        last = of_file[-1]
        gone = last.aborted if last.intent.kind in PUTS else last.intent.kind is Kind.DELETE
        begun = [store.wal.adopt(operation.number, operation.to_carry()) for operation in of_file]
        owe(store, begun, file_id, PendingWork(partial(_resolve, store, of_file), gone))


def kept_temps(operations: list[Operation]) -> set[str]:
    """Temps that hold the only copy of what was decided."""
    decided = [operation.decided.temp for operation in operations if operation.decided is not None]
    return {name for temp in decided for name in (temp, temp + ATTRIBUTES_SUFFIX)}


def _resolve(store: Store, operations: list[Operation]) -> None:
    """All open operations of one file, in the order of the log. May be repeated, also from the middle."""
    for operation in operations:
        if operation.intent.kind in PUTS:
            _keep_or_undo(store, operation)
        elif not operation.aborted:
            _go_forward(store, operation)
        failpoint("owing.resolved")


def _keep_or_undo(store: Store, operation: Operation) -> None:
    """attr.json was sent only after S3 had all of the data: where it stands, the put had come to its commit point."""
    intent = operation.intent
    encoded = store.files.find_attributes(intent.file_id)
    standing = find_in(encoded, intent.file_id) if encoded is not None else None
    if operation.aborted and encoded is not None and operation.undone not in (UNKNOWN, encoded):
        return  # its CLOSED was lost, and the id was used again since
    if operation.aborted or standing is None or not store.files.holds(intent.file_id, standing):
        store.files.undo_put(intent.file_id, intent.temp)


def _go_forward(store: Store, operation: Operation) -> None:
    intent, file_id = operation.intent, operation.intent.file_id
    if intent.kind is Kind.DELETE:
        store.files.remove(file_id)
        return
    decided = operation.decided
    attributes = decided.attributes if decided is not None else intent.attributes
    wanted = find_in(attributes, file_id) if attributes else None
    encoded = store.files.find_attributes(file_id)
    standing = find_in(encoded, file_id) if encoded is not None else None
    if wanted is None or standing is None or standing.revision >= wanted.revision:
        # A rewrite that was not decided, a file deleted since, or one that has it already
        store.files.drop_temps(intent.temp)
        return
    if decided is None:
        store.files.replace_attributes(file_id, intent.temp, attributes)
        return
    if not os.path.exists(store.files.paths.temp(decided.temp)):
        store.findings.damaged += 1
        return
    durable.remove(store.files.paths.temp(decided.temp + ATTRIBUTES_SUFFIX))
    store.files.stage(decided.temp + ATTRIBUTES_SUFFIX, attributes)
    store.files.finish_swap(file_id, decided.temp)


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
        encoded = await store.query(find_attributes, store, file_id)
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

"""What was decided about a file and its backend has not taken, because it is away: kept, done before anything else happens
to that file, and repeated by `settle` until it is done. A local disk is never away, and owes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby

from artstore.errors import Unavailable
from artstore.failpoints import failpoint

from . import durable
from .attributes import find_in
from .paths import ATTRIBUTES_SUFFIX
from .store import Owed, Store
from .wal.log import OpenIntent
from .wal.records import PUTS, Kind
from .wal.replay import UNKNOWN, Operation


async def apply(store: Store, begun: OpenIntent, work: Callable[[], None], *, gone: bool = False) -> None:
    """Do what the log has decided. Raises Unavailable when the backend is away: then it is owed."""
    try:
        await store.in_thread(work)
    except Unavailable:
        owe(store, [begun], begun.intent.file_id, Owed(work, gone))
        raise


def owe(store: Store, begun: Iterable[OpenIntent], file_id: str, owed: Owed) -> None:
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
        owe(store, begun, file_id, Owed(partial(_resolve, store, of_file), gone))


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

"""Recovery: what log and disk say after a crash becomes one state in which every file is whole or absent.

`resolve` decides about one open operation, for every backend. On a disk it runs at the start; for S3, which may not answer
then, it becomes pending work of the file. Everything here may be repeated as a whole or from the middle, so a crash inside it
is a crash like any other: the log is kept until the checkpoint at the end.
"""

from __future__ import annotations

import os
import time
from functools import partial

from artstore.failpoints import failpoint

from . import durable
from .attributes import UNREADABLE, find_in
from .checkpoint import checkpoint
from .get import find_attributes_or_unreadable
from .paths import ATTRIBUTES_SUFFIX, printable
from .pending import defer, settle_all
from .redo import find_current, holds, is_restored, one_file_only, redo
from .store import PendingWork, Store
from .wal.log import OpenIntent
from .wal.records import PUTS, Kind
from .wal.replay import UNKNOWN, LoggedOperation, Replay

REDONE = frozenset({Kind.PATCH, Kind.REWRITE_SMALL, Kind.DELETE})
"""Kinds that redo has made from their frames, where the log carries files."""


async def recover(store: Store, replay: Replay) -> None:
    """The log must be open for writing already; nothing else uses the store yet. Raises OSError when the disk fails."""
    await store.in_thread(_keep_unreadable_frames, store, replay)
    failpoint("recover.kept_aside")
    operations = _adopt(store, replay.unresolved)
    if store.files.log_carries_files:
        await store.in_thread(redo, store, replay)
        failpoint("recover.redone")
        await store.in_thread(_resolve_now, store, [operation for operation, _ in operations])
        failpoint("recover.undone")
        for operation, intent in operations:
            store.unsettled.setdefault(operation.intent.file_id, []).append(intent)
        needed_temps: set[str] = set()
    else:
        _resolve_later(store, operations)
        needed_temps = _decided_temps(replay.unresolved)
    await store.in_thread(_sweep_temps, store, needed_temps)
    failpoint("recover.swept")
    store.unconfirmed.update(replay.unconfirmed)
    store.usage.replace(replay.files, replay.bytes_used, exact=replay.exact)
    # From here on the disk is right and durable; open intents wait only for the catalog, or for S3.
    store.progress.begin("making the recovery durable")
    await checkpoint(store, rotate=True)
    failpoint("recover.checkpointed")
    store.progress.begin("writing the catalog", len(store.unsettled))
    await settle_all(store, store.progress)
    failpoint("recover.resolved")


def resolve(store: Store, operation: LoggedOperation) -> None:
    """Bring one open operation to its end: a decided one forward, an undecided one back. Idempotent. Blocks.

    Raises OSError when the disk fails, and Unavailable when the backend does not answer.
    """
    if operation.overtaken:
        pass  # it was completed, or undone, before the later operation began
    elif operation.intent.kind in PUTS:
        _keep_or_undo_put(store, operation)
    elif operation.intent.kind is Kind.DELETE:
        store.files.remove(operation.intent.file_id)
    else:
        assert operation.intent.kind in (Kind.PATCH, Kind.REWRITE_SMALL, Kind.REWRITE_LARGE)
        _go_forward(store, operation)
    failpoint("pending.resolved")


def _keep_or_undo_put(store: Store, operation: LoggedOperation) -> None:
    """A put counts if attr.json is in its place and matches the data. Else, or if it was aborted, nothing of it stays."""
    file_id = operation.intent.file_id
    encoded = find_attributes_or_unreadable(store, file_id)
    if operation.aborted:
        if encoded is not None and operation.undone not in (UNKNOWN, encoded):
            return  # only its CLOSED was lost, and a person has restored another file since
    elif encoded == UNREADABLE:
        return
    else:
        current = find_in(encoded, file_id) if encoded is not None else None
        if current is not None and holds(store, file_id, current, if_unreadable=True):
            return
    with one_file_only(store, file_id):
        store.files.undo_put(file_id, operation.intent.temp)
    failpoint("recover.put_undone")


def _go_forward(store: Store, operation: LoggedOperation) -> None:
    """A patch, or a decided large rewrite, whose new data is in its temp, or under its name already if the temp is gone."""
    intent, decided, file_id = operation.intent, operation.decided, operation.intent.file_id
    encoded = decided.attributes if decided is not None else intent.attributes
    wanted = find_in(encoded, file_id) if encoded else None
    if wanted is None:
        return  # a large rewrite that was not decided: the old revision stays
    current = find_current(store, file_id)
    in_place = current is not None and (
        current.revision >= wanted.revision or is_restored(store, file_id, current, operation.replaced)
    )
    on_disk = store.files.log_carries_files
    if in_place or (current is None and not on_disk):
        store.files.temps.drop(intent.temp)  # in S3, where attr.json is never half there, the file was deleted since
    elif decided is None:
        if current is not None:
            store.files.replace_attributes(file_id, intent.temp, encoded)
    elif os.path.exists(store.files.temps.data(decided.temp)) or (
        on_disk and holds(store, file_id, wanted, if_unreadable=True)  # S3 compares only sizes
    ):
        store.files.temps.replace_attributes(decided.temp, encoded)
        store.files.swap(file_id, decided.temp)
        failpoint("recover.swapped")
    else:
        store.findings.damaged += 1


def _adopt(store: Store, operations: list[LoggedOperation]) -> list[tuple[LoggedOperation, OpenIntent]]:
    """Open their intents again. An update or delete that was aborted is closed: it was undone before it was marked."""
    adopted: list[tuple[LoggedOperation, OpenIntent]] = []
    for operation in operations:
        intent = store.wal.adopt(operation.number, operation.to_carry())
        if operation.aborted and operation.intent.kind not in PUTS:
            store.wal.close_intent(intent)
        else:
            adopted.append((operation, intent))
    store.findings.resolved_intents += len(operations)
    return adopted


def _resolve_now(store: Store, operations: list[LoggedOperation]) -> None:
    """Except those that redo has made from their frames."""
    store.progress.begin("resolving open operations", len(operations))
    for operation in operations:
        store.progress.step()
        if operation.intent.kind not in REDONE:
            resolve(store, operation)


def _resolve_later(store: Store, operations: list[tuple[LoggedOperation, OpenIntent]]) -> None:
    """Nothing is done here, so that a start does not need the backend."""
    by_file: dict[str, list[tuple[LoggedOperation, OpenIntent]]] = {}
    for one in operations:
        by_file.setdefault(one[0].intent.file_id, []).append(one)
    for file_id, of_file in by_file.items():
        last = of_file[-1][0]
        removes = last.aborted if last.intent.kind in PUTS else last.intent.kind is Kind.DELETE
        work = partial(_resolve_all, store, [operation for operation, _ in of_file])
        defer(store, file_id, [intent for _, intent in of_file], PendingWork(work, removes))


def _resolve_all(store: Store, operations: list[LoggedOperation]) -> None:
    for operation in operations:
        resolve(store, operation)


def _decided_temps(operations: list[LoggedOperation]) -> set[str]:
    """Temps that hold the only copy of a decided change."""
    decided = [operation.decided.temp for operation in operations if operation.decided is not None]
    return {name for temp in decided for name in (temp, temp + ATTRIBUTES_SUFFIX)}


def _keep_unreadable_frames(store: Store, replay: Replay) -> None:
    """Bytes of the log that no CRC confirms are copied to files of their own before their segment is used again."""
    for found in replay.unreadable:
        if found.torn_tail:
            store.findings.torn_tails += 1
            continue
        store.findings.unreadable_frames += 1
        name = f"{os.path.basename(found.path)}.{found.position}.{time.time_ns()}"
        durable.write_new(f"{store.files.paths.unreadable_frames}/{name}", [found.content], sync=True)


def _sweep_temps(store: Store, needed: set[str]) -> None:
    for name in set(os.listdir(store.files.paths.temps)) - needed:
        with one_file_only(store, printable(name)):
            durable.remove(store.files.paths.temp(name))
            store.findings.swept_temps += 1

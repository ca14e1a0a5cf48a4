"""Recovery: what the log and the disk say after a crash becomes one state in which every file is whole or absent.

Everything here may be done again, wholly or from the middle, so a crash inside it is a crash like any other: the log is
only let go by the checkpoint at the end.
"""

from __future__ import annotations

import os
import time

from artstore.contracts.files import Attributes
from artstore.points import hit

from . import durable
from .attributes import find_in
from .checkpoint import checkpoint
from .owing import kept_temps, owe_unresolved
from .paths import ATTRIBUTES_SUFFIX
from .records import PUTS
from .replay import Operation, Replay, Wanted
from .settle import settle, settle_all
from .store import Store
from .wal import Begun


async def recover(store: Store, replay: Replay) -> None:
    """The log must be open for writing already; nobody else uses the store yet. Raises OSError when the disk does."""
    await store.in_thread(_keep_aside, store, replay)
    hit("recover.kept_aside")
    if store.files.rides_in_log:
        kept: set[str] = set()
        begun = await _bring_in_line(store, replay)
    else:
        # What S3 acknowledged stands. What was open is owed: it is done as soon as S3 is there, maybe now.
        owe_unresolved(store, replay.unresolved)
        kept = kept_temps(replay.unresolved)
        begun = []
    await store.in_thread(_sweep_temps, store, kept)
    hit("recover.swept")
    store.unconfirmed.update(replay.unconfirmed)
    store.usage.take_over(replay.files, replay.bytes_used, exact=replay.exact)
    # From here on the disk is right and durable; what is left open waits for nothing but the catalog.
    await checkpoint(store, rotate=True)
    hit("recover.checkpointed")
    await _resolve(store, begun)
    await settle_all(store)
    hit("recover.resolved")


async def _bring_in_line(store: Store, replay: Replay) -> list[Begun]:
    """The disk, with what the log says."""
    # Decided rewrites first: their bytes are nowhere but in their temps. Then what the log carries, the last word per file.
    for operation in replay.unresolved:
        if operation.decided is not None and not operation.aborted:
            await store.in_thread(_go_forward, store, operation)
    hit("recover.went_forward")
    await store.in_thread(_redo, store, replay.wanted)
    hit("recover.redone")
    await store.in_thread(_undo_unpublished, store, replay.unresolved)
    hit("recover.undone")
    return [store.wal.adopt(operation.number, operation.to_carry()) for operation in replay.unresolved]


def _keep_aside(store: Store, replay: Replay) -> None:
    """Frames that no CRC vouches for go into files of their own before their segment is used again."""
    for found in replay.unreadable:
        if found.torn_tail:
            store.findings.torn_tails += 1
            continue
        store.findings.unreadable_frames += 1
        name = f"{os.path.basename(found.path)}.{found.position}.{time.time_ns()}"
        durable.write_new(f"{store.files.paths.aside}/{name}", [found.content], sync=True)


def _go_forward(store: Store, operation: Operation) -> None:
    """A large rewrite that was decided. Its data lies in the temp, or under its name already when the temp is gone."""
    mark = operation.decided
    assert mark is not None
    wanted = find_in(mark.attributes, mark.file_id)
    assert wanted is not None, "the log carries attributes that were checked before they were written"
    standing = _standing(store, mark.file_id)
    if standing is not None and standing.revision >= wanted.revision:
        return
    temp = store.files.paths.temp(mark.temp)
    durable.remove(temp + ATTRIBUTES_SUFFIX)
    if not os.path.exists(temp) and not store.files.holds(mark.file_id, wanted):
        store.findings.damaged += 1
        return
    store.files.stage(mark.temp + ATTRIBUTES_SUFFIX, mark.attributes)
    durable.sync_path(temp + ATTRIBUTES_SUFFIX)
    store.files.finish_swap(mark.file_id, mark.temp)
    hit("recover.swapped")


def _redo(store: Store, wanted: dict[str, Wanted]) -> None:
    for file_id, want in wanted.items():
        if want.attributes is None:
            store.files.remove(file_id)
        elif not _stands(store, file_id, want):
            if _make(store, file_id, want):
                store.findings.redone_files += 1
            else:
                store.findings.damaged += 1
        hit("recover.file_redone")


def _stands(store: Store, file_id: str, want: Wanted) -> bool:
    """Whether the disk has this revision whole, or a later one."""
    assert want.attributes is not None
    wanted = find_in(want.attributes, file_id)
    standing = _standing(store, file_id)
    if wanted is None or (standing is not None and standing.revision > wanted.revision):
        return True
    if standing is None or standing.revision < wanted.revision:
        return False
    return want.data is None or store.files.holds(file_id, wanted)


def _make(store: Store, file_id: str, want: Wanted) -> bool:
    """False for a patch whose bytes are nowhere: the frame that carried them rotted. No attr.json without its bytes."""
    assert want.attributes is not None
    wanted = find_in(want.attributes, file_id)
    if want.data is None and (wanted is None or not store.files.holds(file_id, wanted)):
        return False
    temp = store.files.new_temp(file_id) + ".redo"
    store.files.drop_temps(temp)  # of a recovery that crashed here
    if want.data is None:
        store.files.replace_attributes(file_id, temp, want.attributes)
    else:
        store.files.replace_small(file_id, temp, bytes(want.data), want.attributes)
    return True


def _undo_unpublished(store: Store, unresolved: list[Operation]) -> None:
    """A put whose attr.json is not in its place, or does not match its bytes, never happened."""
    for operation in unresolved:
        if operation.intent.kind not in PUTS:
            continue
        file_id = operation.intent.file_id
        standing = _standing(store, file_id)
        if standing is not None and not operation.aborted and store.files.holds(file_id, standing):
            continue
        store.files.undo_put(file_id, operation.intent.temp)
        hit("recover.put_undone")


def _sweep_temps(store: Store, kept: set[str]) -> None:
    for name in set(os.listdir(store.files.paths.temps)) - kept:
        durable.remove(store.files.paths.temp(name))
        store.findings.swept_temps += 1


async def _resolve(store: Store, begun: list[Begun]) -> None:
    """Tell the catalog what became of each open intent. While it is away they stay open; `settle_all` goes on later."""
    away = False
    for one in begun:
        store.findings.resolved_intents += 1
        if one.intent.kind not in PUTS and one.aborted:
            store.wal.close_intent(one)
        elif away:
            store.unsettled.setdefault(one.intent.file_id, []).append(one)
        else:
            away = not await settle(store, one.intent.file_id, one)


def _standing(store: Store, file_id: str) -> Attributes | None:
    encoded = store.files.find_attributes(file_id)
    return find_in(encoded, file_id) if encoded is not None else None

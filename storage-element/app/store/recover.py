"""Recovery: what the log and the disk say after a crash becomes one state in which every file is whole or absent.

Everything here may be done again, wholly or from the middle, so a crash inside it is a crash like any other: the log is
only let go by the checkpoint at the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from artstore.contracts.files import Attributes
from artstore.failpoints import failpoint
from artstore.logs import get_logger

from . import durable
from .attributes import UNREADABLE, find_in
from .checkpoint import checkpoint
from .disk_health import OF_THE_NAME
from .durable import Identity
from .get import find_many_attributes, unreadable
from .paths import ATTRIBUTES_SUFFIX, printable
from .pending import kept_temps, owe_unresolved, settle, settle_all
from .store import Store
from .wal.log import OpenIntent
from .wal.records import PUTS
from .wal.replay import UNKNOWN, Gone, Operation, Replay, Wanted

log = get_logger("element.store")

Known = Mapping[str, set[Identity]]
"""Replay.known, where it says anything."""


async def recover(store: Store, replay: Replay) -> None:
    """The log must be open for writing already; nobody else uses the store yet. Raises OSError when the disk does."""
    await store.in_thread(_keep_aside, store, replay)
    failpoint("recover.kept_aside")
    if store.files.rides_in_log:
        kept: set[str] = set()
        begun = await _bring_in_line(store, replay)
    else:
        # What S3 acknowledged stands. What was open is owed: it is done as soon as S3 is there, maybe now.
        owe_unresolved(store, replay.unresolved)
        kept = kept_temps(replay.unresolved)
        begun = []
    await store.in_thread(_sweep_temps, store, kept)
    failpoint("recover.swept")
    store.unconfirmed.update(replay.unconfirmed)
    store.usage.replace(replay.files, replay.bytes_used, exact=replay.exact)
    # From here on the disk is right and durable; what is left open waits for nothing but the catalog.
    store.progress.begin("making recovery durable")
    await checkpoint(store, rotate=True)
    failpoint("recover.checkpointed")
    await _resolve(store, begun)
    await settle_all(store)
    failpoint("recover.resolved")


async def _bring_in_line(store: Store, replay: Replay) -> list[OpenIntent]:
    """The disk, with what the log says."""
    # In a copy of the root every file is another one than the log names: there the log alone decides.
    here = await store.in_thread(durable.identify, store.files.paths.wal)
    known = replay.known if replay.here == here else {}
    # Decided rewrites first: their bytes are nowhere but in their temps. Then what the log carries, the last word per file.
    decided = [operation for operation in replay.unresolved if operation.decided is not None and not operation.aborted]
    store.progress.begin("finishing large updates", len(decided))
    for operation in decided:
        await store.in_thread(_go_forward, store, operation, known)
        store.progress.step()
    failpoint("recover.went_forward")
    await store.in_thread(_redo, store, replay, known)
    failpoint("recover.redone")
    await store.in_thread(_undo_unpublished, store, replay)
    failpoint("recover.undone")
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


def _go_forward(store: Store, operation: Operation, known: Known) -> None:
    """A large rewrite that was decided. Its data lies in the temp, or under its name already when the temp is gone."""
    mark = operation.decided
    assert mark is not None
    wanted = find_in(mark.attributes, mark.file_id)
    assert wanted is not None, "the log carries attributes that were checked before they were written"
    standing = _standing(store, mark.file_id)
    if standing is not None and standing.revision >= wanted.revision:
        return
    if standing is not None and _was_put_back(store, mark.file_id, standing, known):
        return
    temp = store.files.paths.temp(mark.temp)
    durable.remove(temp + ATTRIBUTES_SUFFIX)
    if not os.path.exists(temp) and not _holds(store, mark.file_id, wanted, in_doubt=True):
        store.findings.damaged += 1
        return
    store.files.stage(mark.temp + ATTRIBUTES_SUFFIX, mark.attributes)
    durable.sync_path(temp + ATTRIBUTES_SUFFIX)
    store.files.finish_swap(mark.file_id, mark.temp)
    failpoint("recover.swapped")


def _redo(store: Store, replay: Replay, known: Known) -> None:
    store.progress.begin("making files from the log", len(replay.wanted))
    for file_id, want in replay.wanted.items():
        with _this_file_only(store, file_id):
            if want.attributes is None:
                _take_away(store, file_id, want.gone, known.get(file_id, set()))
            elif not _stands(store, file_id, want, known):
                if _make(store, file_id, want):
                    store.findings.redone_files += 1
                else:
                    store.findings.damaged += 1
        failpoint("recover.file_redone")
        store.progress.step()


@contextmanager
def _this_file_only(store: Store, file_id: str) -> Iterator[None]:
    """A name that the operating system refuses is a finding, and keeps no element from starting."""
    try:
        yield
    except OSError as error:
        if error.errno not in OF_THE_NAME:
            raise
        store.findings.damaged += 1
        log.error("file not recovered", file_id=file_id, error=str(error))


def _take_away(store: Store, file_id: str, gone: Gone, known: set[Identity]) -> None:
    """What a delete or an abort removed before the crash. A file that was put in its place since is left alone."""
    encoded = _find(store, file_id)
    standing = store.files.identify(file_id)[:1]  # attr.json; data, where that alone is left
    if _is_of_the_log(gone, encoded, known, standing) or (gone.undone and _is_torn(encoded, file_id)):
        store.files.remove(file_id)
    elif standing:
        store.findings.put_back += 1
        log.warning("a file that was deleted was put back: it stays", file_id=file_id)


def _is_of_the_log(gone: Gone, encoded: bytes | None, known: set[Identity], standing: tuple[Identity, ...]) -> bool:
    if gone.deleted and (not known or not known.isdisjoint(standing)):
        return True
    return bool(gone.undone) and (encoded is None or UNKNOWN in gone.undone or encoded in gone.undone)


def _is_torn(encoded: bytes | None, file_id: str) -> bool:
    """As a power cut leaves what was never synced. A person puts back what can be read."""
    return encoded is not None and encoded != UNREADABLE and find_in(encoded, file_id) is None


def _stands(store: Store, file_id: str, want: Wanted, known: Known) -> bool:
    """Whether the disk has this revision whole, a later one, or one that a person put there since."""
    assert want.attributes is not None
    wanted = find_in(want.attributes, file_id)
    standing = _standing(store, file_id)
    if wanted is None:
        return True
    if standing is None:
        return False
    if standing.revision != wanted.revision:
        return standing.revision > wanted.revision or _was_put_back(store, file_id, standing, known)
    if want.data is None or _holds(store, file_id, wanted, in_doubt=False):
        return True
    return standing.checksum != wanted.checksum and _holds(store, file_id, standing, in_doubt=False)


def _was_put_back(store: Store, file_id: str, standing: Attributes, known: Known) -> bool:
    """Whether an older revision is none of those that the log replaced, and whole: then a person wants it there."""
    past = known.get(file_id)
    if (
        not past
        or not past.isdisjoint(store.files.identify(file_id)[:1])
        or not _holds(store, file_id, standing, in_doubt=True)
    ):
        return False
    store.findings.put_back += 1
    log.warning("an older revision was put back: it stays", file_id=file_id, revision=standing.revision)
    return True


def _make(store: Store, file_id: str, want: Wanted) -> bool:
    """False for a patch whose bytes are nowhere: the frame that carried them rotted. No attr.json without its bytes."""
    assert want.attributes is not None
    wanted = find_in(want.attributes, file_id)
    if want.data is None and (wanted is None or not _holds(store, file_id, wanted, in_doubt=True)):
        return False
    temp = store.files.new_temp(file_id) + ".redo"
    store.files.drop_temps(temp)  # of a recovery that crashed here
    if want.data is None:
        store.files.replace_attributes(file_id, temp, want.attributes)
    else:
        store.files.replace_small(file_id, temp, bytes(want.data), want.attributes)
    return True


def _undo_unpublished(store: Store, replay: Replay) -> None:
    """A put whose attr.json is not in its place, or does not match its bytes, never happened."""
    store.progress.begin("checking files that were being put", len(replay.unresolved))
    for operation in replay.unresolved:
        store.progress.step()
        if operation.intent.kind not in PUTS:
            continue
        file_id = operation.intent.file_id
        encoded = _find(store, file_id)
        standing = find_in(encoded, file_id) if encoded is not None else None
        if operation.aborted:
            # An abort whose CLOSED was lost, and the id was used again: that file is another put's.
            if operation.number < replay.superseded.get(file_id, 0) or encoded not in (None, operation.undone):
                continue
        elif encoded == UNREADABLE or (standing is not None and _holds(store, file_id, standing, in_doubt=True)):
            continue
        with _this_file_only(store, file_id):
            store.files.undo_put(file_id, operation.intent.temp)
        failpoint("recover.put_undone")


def _sweep_temps(store: Store, kept: set[str]) -> None:
    for name in set(os.listdir(store.files.paths.temps)) - kept:
        with _this_file_only(store, printable(name)):
            durable.remove(store.files.paths.temp(name))
            store.findings.swept_temps += 1


async def _resolve(store: Store, begun: list[OpenIntent]) -> None:
    """Tell the catalog what became of each open intent. While it is away they stay open; `settle_all` goes on later."""
    away = False
    store.progress.begin("telling the catalog", len(begun))
    for one in begun:
        store.progress.step()
        store.findings.resolved_intents += 1
        if one.intent.kind not in PUTS and one.aborted:
            store.wal.close_intent(one)
        elif away:
            store.unsettled.setdefault(one.intent.file_id, []).append(one)
        else:
            away = not await settle(store, one.intent.file_id, one)


def _standing(store: Store, file_id: str) -> Attributes | None:
    encoded = _find(store, file_id)
    return find_in(encoded, file_id) if encoded is not None else None


def _find(store: Store, file_id: str) -> bytes | None:
    """One file that the disk does not give must not keep the element from starting."""
    (encoded,) = find_many_attributes(store, [file_id])
    return encoded


def _holds(store: Store, file_id: str, attributes: Attributes, *, in_doubt: bool) -> bool:
    """`in_doubt`: what to take for true when the disk does not give the bytes."""
    try:
        return store.files.holds(file_id, attributes)
    except OSError as error:
        unreadable(store, error, file_id)
        return in_doubt

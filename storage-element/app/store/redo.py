"""Redo: make the files of a local disk agree with the frames of the log, after a crash.

A person may have restored a deleted file, or an older revision, while the element was down. Such a file stays: the log names the
identities of the files that its operations replaced or deleted, and redo touches no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from artstore.contracts.files import Attributes
from artstore.failpoints import failpoint
from artstore.logs import get_logger

from . import durable
from .attributes import UNREADABLE, find_in
from .disk_health import NAME_REFUSED
from .get import find_attributes_or_unreadable, unreadable
from .store import Store
from .wal.replay import UNKNOWN, Removed, Replay, Wanted

log = get_logger("element.store")


def redo(store: Store, replay: Replay) -> None:
    """Idempotent: a crash in here is a crash like any other. Blocks. Raises OSError when the disk fails."""
    if durable.identify(store.files.paths.wal) != replay.log_folder:
        # In a copy of the root every file has another identity than the log names: there the log alone decides.
        for identities in replay.replaced.values():
            identities.clear()
    store.progress.begin("making files from the log", len(replay.wanted))
    for file_id, wanted in replay.wanted.items():
        replaced = replay.replaced.get(file_id, set())
        with one_file_only(store, file_id):
            if wanted.attributes is None:
                _remove(store, file_id, wanted.removed, replaced)
            elif not _is_done(store, file_id, wanted, replaced):
                if _make(store, file_id, wanted):
                    store.findings.redone_files += 1
                else:
                    store.findings.damaged += 1
        failpoint("recover.file_redone")
        store.progress.step()


@contextmanager
def one_file_only(store: Store, file_id: str) -> Iterator[None]:
    """A name that the operating system refuses is a finding, and does not keep the element from starting."""
    try:
        yield
    except OSError as error:
        if error.errno not in NAME_REFUSED:
            raise
        store.findings.damaged += 1
        log.error("file not recovered", file_id=file_id, error=str(error))


def find_current(store: Store, file_id: str) -> Attributes | None:
    """The attributes on the disk; None also when they cannot be read or decoded."""
    encoded = find_attributes_or_unreadable(store, file_id)
    return find_in(encoded, file_id) if encoded is not None else None


def holds(store: Store, file_id: str, attributes: Attributes, *, if_unreadable: bool) -> bool:
    """True if the data is what the attributes describe; `if_unreadable` when the disk cannot read it."""
    try:
        return store.files.holds(file_id, attributes)
    except OSError as error:
        unreadable(store, error, file_id)
        return if_unreadable


def is_restored(store: Store, file_id: str, current: Attributes, replaced: set[durable.FileIdentity]) -> bool:
    """True if an older revision is whole and not one that the log replaced: then a person restored it."""
    if (
        not replaced
        or not replaced.isdisjoint(store.files.identify(file_id)[:1])
        or not holds(store, file_id, current, if_unreadable=True)
    ):
        return False
    store.findings.put_back += 1
    log.warning("an older revision was restored by hand and stays", file_id=file_id, revision=current.revision)
    return True


def _remove(store: Store, file_id: str, removed: Removed, replaced: set[durable.FileIdentity]) -> None:
    """Remove again what a delete or an abort removed before the crash, but not a file that was restored since."""
    encoded = find_attributes_or_unreadable(store, file_id)
    current = store.files.identify(file_id)[:1]  # attr.json; the data, if only that is left
    was_deleted = removed.deleted and (not replaced or not replaced.isdisjoint(current))
    was_undone = bool(removed.undone) and (
        encoded is None or UNKNOWN in removed.undone or encoded in removed.undone or _is_torn(encoded, file_id)
    )
    if was_deleted or was_undone:
        store.files.remove(file_id)
    elif current:
        store.findings.put_back += 1
        log.warning("a deleted file was restored by hand and stays", file_id=file_id)


def _is_torn(encoded: bytes, file_id: str) -> bool:
    """As a power cut leaves a file that was never synced. A person restores files that can be decoded."""
    return encoded != UNREADABLE and find_in(encoded, file_id) is None


def _is_done(store: Store, file_id: str, wanted: Wanted, replaced: set[durable.FileIdentity]) -> bool:
    """True if the disk has this revision whole, a later one, or one that a person restored."""
    assert wanted.attributes is not None
    attributes = find_in(wanted.attributes, file_id)
    current = find_current(store, file_id)
    if attributes is None:
        return True
    if current is None:
        return False
    if current.revision != attributes.revision:
        return current.revision > attributes.revision or is_restored(store, file_id, current, replaced)
    if wanted.data is None or holds(store, file_id, attributes, if_unreadable=False):
        return True
    return current.checksum != attributes.checksum and holds(store, file_id, current, if_unreadable=False)


def _make(store: Store, file_id: str, wanted: Wanted) -> bool:
    """False for a patch whose bytes are lost, because the frame that carried them is damaged: no attr.json without its bytes."""
    assert wanted.attributes is not None
    attributes = find_in(wanted.attributes, file_id)
    if wanted.data is None and (attributes is None or not holds(store, file_id, attributes, if_unreadable=True)):
        return False
    temp = store.files.temps.new(file_id) + ".redo"
    store.files.temps.drop(temp)  # left by a recovery that crashed here
    if wanted.data is None:
        store.files.replace_attributes(file_id, temp, wanted.attributes)
    else:
        store.files.replace_small(file_id, temp, bytes(wanted.data), wanted.attributes)
    return True

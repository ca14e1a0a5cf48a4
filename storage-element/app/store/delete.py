"""Delete, by a user's wish or as the compensation of the saga that put the file. attr.json goes first, then the data."""

from __future__ import annotations

from artstore.contracts.storage import CONFIRMED_REASON
from artstore.errors import Conflict, FileDamaged, NotFound
from artstore.failpoints import failpoint

from .attributes import UNREADABLE, find_in
from .disk_health import OF_THE_NAME, FileUnreadable
from .get import find_attributes
from .pending import apply, pay, settle
from .store import Store
from .update import require_revision
from .wal.records import Intent, Kind, Step


async def delete(store: Store, file_id: str, if_revision: int | None = None) -> int:
    """Gone for good when it returns: the revision it is gone at, above any the file had. Needs no room on the disk.

    Raises NotFound, RevisionMismatch, ElementFailed.
    """
    store.disk_health.require_writable()
    return await store.to_the_end(_delete(store, file_id, if_revision))


async def compensate(store: Store, file_id: str, saga_id: str) -> None:
    """Remove what this saga put and has not committed; when nothing is there, it is done. Raises Conflict, ElementFailed.

    The element's own memory decides, never the catalog: a restored database may say that an acknowledged upload is
    still open. A file that is not remembered as unconfirmed by this saga is kept: Conflict with the reason `confirmed`.
    A put of the saga that is still running is stopped first, and one that is still on its way will be refused.
    """
    store.disk_health.require_writable()
    store.remember_compensated(saga_id)
    running = store.running.get(file_id)
    if running is not None and running.saga_id == saga_id:
        running.stop()
    await store.to_the_end(_compensate(store, file_id, saga_id))


async def _delete(store: Store, file_id: str, if_revision: int | None) -> int:
    async with store.locks.hold(file_id):
        await pay(store, file_id)
        encoded = await _find(store, file_id)
        if encoded is None:
            raise NotFound("there is no such file here", file_id=file_id)
        attributes = find_in(encoded, file_id)
        if attributes is not None:
            require_revision(attributes, if_revision)
        elif if_revision is not None:
            raise FileDamaged("the file's revision cannot be compared: attr.json cannot be read", file_id=file_id)
        return await _remove(store, file_id, encoded, None)


async def _compensate(store: Store, file_id: str, saga_id: str) -> None:
    async with store.locks.hold(file_id):
        await pay(store, file_id)
        encoded = await _find(store, file_id)
        if encoded is None:
            store.require_confirmed()
            return
        unconfirmed = store.unconfirmed.get(file_id)
        if unconfirmed is None or unconfirmed.saga_id != saga_id:
            raise Conflict(
                "the element keeps this file: it holds it as acknowledged, or another saga put it",
                file_id=file_id,
                reason=CONFIRMED_REASON,
            )
        await _remove(store, file_id, encoded, saga_id)


async def _find(store: Store, file_id: str) -> bytes | None:
    """attr.json; UNREADABLE where the disk does not give it: such a file can still be deleted."""
    try:
        return await store.query(find_attributes, store, file_id)
    except FileUnreadable:
        return UNREADABLE


async def _remove(store: Store, file_id: str, encoded: bytes, saga_id: str | None) -> int:
    attributes = find_in(encoded, file_id)
    revision = attributes.revision + 1 if attributes is not None else 1
    # 1 WAL, twice: from its sync on the file is gone, and replay of an earlier put does not bring it back.
    intent = Intent(Kind.DELETE, file_id, saga_id, revision=revision, stood=store.files.identify(file_id))
    begun, work = store.begin(intent, lambda: store.files.remove(file_id), copies=2)
    try:
        # 4 attr.json, then data, in the same thread hop
        await begun.durable
        store.unconfirmed.pop(file_id, None)
        if attributes is not None:
            store.usage.add(file_id, -1, -attributes.size_bytes)
        if work is not None:
            failpoint("delete.intended")
            await apply(store, begun, work, gone=True)
    except OSError as error:
        if error.errno not in OF_THE_NAME:
            raise store.disk_health.fail(f"a file could not be removed: {error}") from error
        # The operating system refuses this one name, and attr.json is still there: nothing was deleted.
        await store.wal.mark(begun, Step.ABORTED)
        store.wal.close_intent(begun)
        raise FileDamaged(f"the file cannot be removed: {error.strerror}", file_id=file_id, reason="refused") from error
    failpoint("delete.removed")
    # 5, 6 and 7: the row and the event; with the catalog away the intent stays open until it is back
    await settle(store, file_id, begun)
    failpoint("delete.settled")
    return revision

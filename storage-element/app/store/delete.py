"""Delete, on a user's request or as the compensation of the saga that put the file. attr.json goes first, then the data."""

from __future__ import annotations

from functools import partial
from typing import NoReturn

from artstore.contracts.storage import CONFIRMED_REASON
from artstore.errors import Conflict, FileDamaged, NotFound
from artstore.failpoints import failpoint

from .attributes import find_in, require_staying
from .disk_health import NAME_REFUSED
from .get import find_attributes_or_unreadable
from .pending import do_or_defer, make_pending_change, settle
from .store import Store
from .update import require_revision
from .wal.log import OpenIntent
from .wal.records import Intent, Kind, Step


async def delete(
    store: Store, file_id: str, if_revision: int | None = None, account: str = "", *, moved_to: str | None = None
) -> int:
    """Permanent when it returns the revision of the delete, which is above any revision the file had. Needs no free space.
    `moved_to`: the element that has the file now; a file that moves is deleted by no other caller.

    Raises NotFound, RevisionMismatch, Conflict, FileDamaged, Unavailable, ElementFailed.
    """
    store.disk_health.require_writable()
    return await store.complete(DeleteOperation(store, file_id, account).run(if_revision, moved_to))


async def compensate(store: Store, file_id: str, saga_id: str) -> None:
    """Remove the file that this saga put and has not committed; a missing file is a success. Raises Conflict, ElementFailed.

    The element's own memory decides, never the catalog: a restored database may say that an acknowledged upload is still open.
    A file that is not remembered as unconfirmed by this saga is kept: Conflict with the reason `confirmed`. A running put of the
    saga is stopped first, and a later one is refused.
    """
    store.disk_health.require_writable()
    store.remember_compensated(saga_id)
    receiving = store.receiving.get(file_id)
    if receiving is not None and receiving.saga_id == saga_id:
        receiving.stop()
    await store.complete(DeleteOperation(store, file_id).compensate(saga_id))


class DeleteOperation:
    def __init__(self, store: Store, file_id: str, account: str = "") -> None:
        self.store, self.file_id, self.account = store, file_id, account

    async def run(self, if_revision: int | None, moved_to: str | None) -> int:
        async with self.store.locks.hold(self.file_id):
            encoded = await self._find()
            if encoded is None:
                raise NotFound("no such file on this element", file_id=self.file_id)
            attributes = find_in(encoded, self.file_id)
            if attributes is not None:
                require_revision(attributes, if_revision)
                require_staying(attributes, moved_to)
            elif if_revision is not None:
                raise FileDamaged(
                    "the file's revision cannot be compared: attr.json cannot be read", file_id=self.file_id
                )
            return await self._remove(encoded, None)

    async def compensate(self, saga_id: str) -> None:
        store = self.store
        async with store.locks.hold(self.file_id):
            encoded = await self._find()
            if encoded is None:
                store.require_confirmed()
                return
            unconfirmed = store.unconfirmed.get(self.file_id)
            if unconfirmed is None or unconfirmed.saga_id != saga_id:
                raise Conflict(
                    "the element keeps this file: it is acknowledged, or another saga put it",
                    file_id=self.file_id,
                    reason=CONFIRMED_REASON,
                )
            await self._remove(encoded, saga_id)

    async def _find(self) -> bytes | None:
        """attr.json; UNREADABLE where the disk cannot read it: such a file can still be deleted."""
        await make_pending_change(self.store, self.file_id)
        return await self.store.query(find_attributes_or_unreadable, self.store, self.file_id)

    async def _remove(self, encoded: bytes, saga_id: str | None) -> int:
        store, file_id = self.store, self.file_id
        attributes = find_in(encoded, file_id)
        revision = attributes.revision + 1 if attributes is not None else 1
        # 1 WAL, twice: from its sync on the file is deleted, and replay of an earlier put does not bring it back
        record = Intent(
            Kind.DELETE,
            file_id,
            saga_id,
            revision=revision,
            replaced=store.files.identify(file_id),
            account=self.account,
            size_bytes=attributes.size_bytes if attributes is not None else 0,
        )
        intent = store.begin(record, partial(store.files.remove, file_id), copies=2)
        try:
            # 4 attr.json, then data, in the same thread hop
            await intent.logged()
            store.unconfirmed.pop(file_id, None)
            if attributes is not None:
                store.usage.add(file_id, -1, -attributes.size_bytes)
            if intent.work is not None:
                failpoint("delete.intended")
                await do_or_defer(store, intent, intent.work, removes=True)
        except OSError as error:
            await self._refused(intent, error)
        failpoint("delete.removed")
        # The audit log, then 5, 6 and 7: the row and the event; while the catalog is unavailable, the intent stays open
        await settle(store, file_id, intent)
        failpoint("delete.settled")
        return revision

    async def _refused(self, intent: OpenIntent, error: OSError) -> NoReturn:
        """FileDamaged when only this name is refused: attr.json still exists, so nothing was deleted. Else ElementFailed."""
        if error.errno not in NAME_REFUSED:
            raise self.store.disk_health.fail(f"a file could not be removed: {error}") from error
        await self.store.wal.mark(intent, Step.ABORTED)
        self.store.wal.close_intent(intent)
        raise FileDamaged(
            f"the file cannot be removed: {error.strerror}", file_id=self.file_id, reason="refused"
        ) from error

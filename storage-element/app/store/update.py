"""Patch and rewrite: write the next revision beside the old one, then rename it into place. Under the same log as put.

The commit point is a record in the log that carries the new attributes, and the new bytes or the name of the synced temp: from
there the change goes forward, at the next start if need be. An unavailable catalog does not undo it; the row follows later.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import msgspec

from artstore.contracts.files import Attributes, Changes, encode
from artstore.errors import RevisionMismatch
from artstore.failpoints import failpoint
from artstore.tracing import span

from .attributes import require_staying, with_changes, with_content
from .get import load_attributes, open_file
from .pending import do_or_defer, make_pending_change, settle
from .receive import Body, Expected, IncomingBody
from .store import HeldRevision, Store
from .wal.log import OpenIntent
from .wal.records import Intent, Kind, Step


@dataclass(frozen=True, slots=True)
class RewriteOrder:
    file_id: str
    if_revision: int | None = None
    content_type: str | None = None
    account: str = ""
    """For the audit log."""
    expected: Expected = field(default_factory=Expected)


async def patch(store: Store, file_id: str, changes: Changes, if_revision: int | None, account: str = "") -> Attributes:
    """Durable when it returns. Raises NotFound, RevisionMismatch, InvalidFields, StorageFull, ElementFailed."""
    store.disk_health.require_writable()
    return await store.complete(PatchOperation(store, file_id, account).run(changes, if_revision))


async def rewrite(store: Store, order: RewriteOrder, body: Body) -> Attributes:
    """New bytes under the same id. Raises as `patch`, and as `put` for the body."""
    store.disk_health.require_writable()
    operation = RewriteOperation(store, order, body)
    return await store.complete(operation.run(), operation.body)


class UpdateOperation:
    """The steps that patch and rewrite have in common."""

    def __init__(self, store: Store, file_id: str, account: str) -> None:
        self.store, self.file_id, self.account = store, file_id, account
        self.temp = store.files.temps.new(file_id)

    async def _load(self, if_revision: int | None, *, may_move: bool = False) -> Attributes:
        await make_pending_change(self.store, self.file_id)
        attributes, _ = await load_attributes(self.store, self.file_id)
        require_revision(attributes, if_revision)
        if not may_move:
            require_staying(attributes, None)
        return attributes

    async def _log_and_apply(
        self, kind: Kind, attributes: Attributes, encoded: bytes, work: Callable[[], None], data: bytes = b""
    ) -> OpenIntent:
        """1 WAL, whose sync decides the change, and 2 to 4 in the same thread hop. An error before the rename aborts the change;
        after it, only a failed disk can be the reason."""
        store = self.store
        replaced = store.files.identify(self.file_id)
        record = Intent(kind, self.file_id, None, encoded, self.temp, attributes.revision, replaced, self.account)
        intent = store.begin(record, work, data)
        try:
            await intent.logged()
            if intent.work is not None:
                failpoint("update.intended")
                await do_or_defer(store, intent, intent.work)
        except OSError as error:
            failure = store.disk_health.explain(error)
            await self._abort(intent)
            raise failure from error
        failpoint("update.published")
        return intent

    async def _abort(self, intent: OpenIntent) -> None:
        store = self.store
        try:
            await store.in_thread(store.files.temps.drop, self.temp)
        except OSError as error:
            store.disk_health.fail(f"the temps of a failed change could not be removed: {error}")
        if store.disk_health.failure is not None:
            return
        await store.wal.mark(intent, Step.ABORTED)
        failpoint("update.aborted")
        store.wal.close_intent(intent)

    async def _settle(self, intent: OpenIntent) -> None:
        """The audit log, then 5 and 6: catalog row and change event; 7: closed. While the catalog is unavailable, the
        intent stays open."""
        await settle(self.store, self.file_id, intent)
        failpoint("update.settled")


class PatchOperation(UpdateOperation):
    """New attributes; the bytes stay."""

    async def run(self, changes: Changes, if_revision: int | None) -> Attributes:
        store = self.store
        async with store.locks.hold(self.file_id):
            may_move = changes.moving_to is not msgspec.UNSET  # to another target than the one that was chosen first
            now = await self._load(if_revision, may_move=may_move)
            changed = with_changes(now, changes, now=store.now())
            encoded = encode(changed)
            reservation = store.space.reservation()
            try:
                reservation.ensure(len(encoded))
                replace = partial(store.files.replace_attributes, self.file_id, self.temp, encoded)
                intent = await self._log_and_apply(Kind.PATCH, changed, encoded, replace)
            finally:
                reservation.release()
            await self._settle(intent)
            return changed


class RewriteOperation(UpdateOperation):
    """New bytes, small in the log's frame or large in a temp."""

    def __init__(self, store: Store, order: RewriteOrder, body: Body) -> None:
        super().__init__(store, order.file_id, order.account)
        self.order = order
        self.body = IncomingBody(store, order.file_id, body, order.expected)

    async def run(self) -> Attributes:
        async with self.store.locks.hold(self.file_id):
            with self.body:
                old = await self._load(self.order.if_revision)
                await self.body.receive_head()
                in_frame = self.body.is_small and self.store.files.log_carries_files
                intent, new = await (self._rewrite_small(old) if in_frame else self._rewrite_large(old))
            await self._settle(intent)
            return new

    async def _rewrite_small(self, old: Attributes) -> tuple[OpenIntent, Attributes]:
        store, data = self.store, self.body.take_small()
        new = self._describe(old)
        encoded = encode(new)
        self.body.reserve(len(data) + len(encoded))
        async with self._readers_held():
            replace = partial(store.files.replace_small, self.file_id, self.temp, data, encoded)
            intent = await self._log_and_apply(Kind.REWRITE_SMALL, new, encoded, replace, data)
        store.usage.add(self.file_id, 0, new.size_bytes - old.size_bytes)
        return intent, new

    async def _rewrite_large(self, old: Attributes) -> tuple[OpenIntent, Attributes]:
        store = self.store
        # 1 WAL: an intent, so that a temp left by a crash has an owner
        replaced = store.files.identify(self.file_id)
        intent = store.wal.begin(
            Intent(
                Kind.REWRITE_LARGE,
                self.file_id,
                temp=self.temp,
                revision=old.revision + 1,
                replaced=replaced,
                account=self.account,
            )
        )
        try:
            await intent.logged()
            failpoint("update.intended")
            # 2 Temp and 3 fsync of the bytes and the attributes
            with span("put.receive"):
                await self.body.write_to(store.files.temps.data(self.temp))
            new = self._describe(old)
            encoded = encode(new)
            with span("put.publish"):
                await store.in_thread(store.files.temps.complete, self.temp, encoded)
            failpoint("update.synced")
            self.body.require_wanted()
        except BaseException as error:
            if isinstance(error, OSError):
                store.disk_health.explain(error)
            await self._abort(intent)
            raise
        async with self._readers_held() as held:
            await store.wal.mark(intent, Step.DECIDED, attributes=encoded, temp=self.temp)
            failpoint("update.decided")
            store.usage.add(self.file_id, 0, new.size_bytes - old.size_bytes)
            held.replace(encoded, store.files.open_replacing(self.temp))
            # 4 Rename both, fsync the folder. After a crash in between, the mark carries the change forward.
            try:
                await do_or_defer(store, intent, partial(store.files.swap, self.file_id, self.temp))
            except OSError as error:
                # The change is decided and will be made, so no answer but "the disk has failed" is true, whatever the reason.
                raise store.disk_health.fail(f"a decided change could not be made: {error}") from error
            failpoint("update.published")
        return intent, new

    def _describe(self, old: Attributes) -> Attributes:
        """Raises DigestMismatch."""
        return with_content(
            old,
            size_bytes=self.body.size_bytes,
            sha256=self.body.verified_sha256(),
            content_type=self.order.content_type or old.content_type,
            now=self.store.now(),
        )

    @asynccontextmanager
    async def _readers_held(self) -> AsyncIterator[HeldRevision]:
        """Readers get one whole revision until the new one is in place; after a failure in between they still get it."""
        store = self.store
        opened = await open_file(store, self.file_id)
        store.swaps += 1
        store.swapping[self.file_id] = held = HeldRevision(opened.encoded, opened.data)
        try:
            yield held
        except BaseException:
            if store.disk_health.failure is None and self.file_id not in store.pending:
                store.swapping.pop(self.file_id).data.close()
            raise
        store.swapping.pop(self.file_id).data.close()


def require_revision(attributes: Attributes, if_revision: int | None) -> None:
    """Raises RevisionMismatch."""
    if if_revision is not None and if_revision != attributes.revision:
        raise RevisionMismatch(f"the file is at revision {attributes.revision}", revision=attributes.revision)

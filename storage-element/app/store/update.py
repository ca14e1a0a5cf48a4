"""Update: the next revision beside the old one, then swapped in by rename. Under the same log as put.

The commit point is a record in the log that carries the new attributes (and small bytes, or the name of the synced temp):
from there it goes forward, at the next start if need be. The catalog being away does not undo it; the row follows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from artstore.contracts.files import Attributes, Changes, encode
from artstore.errors import RevisionMismatch
from artstore.failpoints import failpoint

from .attributes import with_changes, with_content
from .body import Body, Expected
from .get import load_attributes, open_file
from .locks import Running
from .paths import ATTRIBUTES_SUFFIX
from .pending import apply, pay, settle
from .receive import Hasher, take_into
from .space import Reservation
from .store import Held, Store
from .wal.log import OpenIntent
from .wal.records import Intent, Kind, Step


@dataclass(frozen=True, slots=True)
class RewriteOrder:
    file_id: str
    if_revision: int | None = None
    content_type: str | None = None
    expected: Expected = field(default_factory=Expected)


async def patch(store: Store, file_id: str, changes: Changes, if_revision: int | None) -> Attributes:
    """Durable when it returns. Raises NotFound, RevisionMismatch, InvalidFields, StorageFull, ElementFailed."""
    store.disk_health.require_writable()
    return await store.to_the_end(_patch(store, file_id, changes, if_revision))


async def rewrite(store: Store, order: RewriteOrder, body: Body) -> Attributes:
    """Other bytes under the same id. Raises as `patch`, and as `put` for the body."""
    store.disk_health.require_writable()
    running = Running(None)
    return await store.to_the_end(_rewrite_locked(store, order, body, running), running)


async def _patch(store: Store, file_id: str, changes: Changes, if_revision: int | None) -> Attributes:
    async with store.locks.hold(file_id):
        await pay(store, file_id)
        attributes, _ = await load_attributes(store, file_id)
        require_revision(attributes, if_revision)
        changed = with_changes(attributes, changes, now=store.now())
        encoded = encode(changed)
        temp = store.files.new_temp(file_id)
        with store.space.reservation() as reservation:
            reservation.ensure(len(encoded))
            # 1 WAL: from its sync on the change is made; 2 to 4 (temp, rename) follow in the same thread hop.
            stood = store.files.identify(file_id)
            intent = Intent(Kind.PATCH, file_id, None, encoded, temp, changed.revision, stood)
            begun, work = store.begin(intent, lambda: store.files.replace_attributes(file_id, temp, encoded))
            await _applied(store, begun, temp, work)
        await _tell(store, file_id, begun)
        return changed


async def _rewrite_locked(store: Store, order: RewriteOrder, body: Body, running: Running) -> Attributes:
    async with store.locks.hold(order.file_id):
        store.running[order.file_id] = running
        try:
            await pay(store, order.file_id)
            attributes, _ = await load_attributes(store, order.file_id)
            require_revision(attributes, order.if_revision)
            with store.space.reservation() as reservation:
                reservation.ensure(body.stated_bytes or 0)
                async with running.stoppable():
                    head = await body.gather(store.limits.small_bytes + 1)
                small = store.files.rides_in_log and body.ended and body.seen_bytes <= store.limits.small_bytes
                way = _rewrite_small if small else _rewrite_large
                begun, changed = await way(store, order, attributes, head, body, running, reservation)
            await _tell(store, order.file_id, begun)
            return changed
        except OSError as error:
            raise store.disk_health.explain(error) from error
        finally:
            del store.running[order.file_id]


async def _rewrite_small(
    store: Store,
    order: RewriteOrder,
    attributes: Attributes,
    head: list[bytes],
    body: Body,
    running: Running,
    reservation: Reservation,
) -> tuple[OpenIntent, Attributes]:
    data, hasher = b"".join(head), Hasher(order.expected)
    hasher.add(data)
    changed = _next_revision(store, order, attributes, body, hasher)
    encoded = encode(changed)
    reservation.ensure(len(data) + len(encoded))
    temp = store.files.new_temp(order.file_id)
    async with _readers_held(store, order.file_id):
        stood = store.files.identify(order.file_id)
        intent = Intent(Kind.REWRITE_SMALL, order.file_id, None, encoded, temp, changed.revision, stood)
        begun, work = store.begin(intent, lambda: store.files.replace_small(order.file_id, temp, data, encoded), data)
        await _applied(store, begun, temp, work)
    store.usage.add(order.file_id, 0, changed.size_bytes - attributes.size_bytes)
    return begun, changed


async def _rewrite_large(
    store: Store,
    order: RewriteOrder,
    attributes: Attributes,
    head: list[bytes],
    body: Body,
    running: Running,
    reservation: Reservation,
) -> tuple[OpenIntent, Attributes]:
    hasher = Hasher(order.expected)
    temp = store.files.new_temp(order.file_id)
    # 1 WAL: an intent, so that a crash leaves a temp with an owner
    stood = store.files.identify(order.file_id)
    intent = Intent(Kind.REWRITE_LARGE, order.file_id, temp=temp, revision=attributes.revision + 1, stood=stood)
    begun = store.wal.begin(intent)
    try:
        await begun.durable
        failpoint("update.intended")
        # 2 Temp and 3 fsync of the bytes and the attributes
        await take_into(store, store.files.paths.temp(temp), head, body, running, reservation, hasher)
        changed = _next_revision(store, order, attributes, body, hasher)
        encoded = encode(changed)
        await store.in_thread(store.files.stage, temp + ATTRIBUTES_SUFFIX, encoded)
        await store.in_thread(store.files.sync_decided, temp)
        failpoint("update.synced")
        running.require_wanted()
    except BaseException as error:
        if isinstance(error, OSError):
            store.disk_health.explain(error)
        await _give_up(store, begun, temp)
        raise
    async with _readers_held(store, order.file_id) as held:
        await store.wal.mark(begun, Step.DECIDED, attributes=encoded, temp=temp)
        failpoint("update.decided")
        store.usage.add(order.file_id, 0, changed.size_bytes - attributes.size_bytes)
        held.move_on(encoded, store.files.open_staged(temp))
        # 4 Rename both, sync the folder. A crash between the two is carried forward by the mark.
        try:
            await apply(store, begun, partial(_swap_and_sync, store, order.file_id, temp))
        except OSError as error:
            # Decided, so it will be: no answer but "the disk has failed" would be true, whatever its reason.
            raise store.disk_health.fail(f"a decided change could not be made: {error}") from error
        failpoint("update.published")
    return begun, changed


def _swap_and_sync(store: Store, file_id: str, temp: str) -> None:
    store.files.swap(file_id, temp)
    store.files.sync_folder(file_id)


@asynccontextmanager
async def _readers_held(store: Store, file_id: str) -> AsyncIterator[Held]:
    """Readers get one revision, whole, until the new one stands. After a failure in between they keep getting it."""
    opened = await open_file(store, file_id)
    store.swaps += 1
    store.swapping[file_id] = held = Held(opened.encoded, opened.data)
    try:
        yield held
    except BaseException:
        if store.disk_health.failure is None and file_id not in store.owed:
            _let_go(store, file_id)
        raise
    _let_go(store, file_id)


def _let_go(store: Store, file_id: str) -> None:
    store.swapping.pop(file_id).data.close()


async def _applied(store: Store, begun: OpenIntent, temp: str, work: Callable[[], None] | None) -> None:
    """Wait for log and rename. What failed before the rename is aborted; after it only a broken disk can have failed."""
    try:
        await begun.durable
        if work is not None:
            failpoint("update.intended")
            await apply(store, begun, work)
    except OSError as error:
        failure = store.disk_health.explain(error)
        await _give_up(store, begun, temp)
        raise failure from error
    failpoint("update.published")


async def _give_up(store: Store, begun: OpenIntent, temp: str) -> None:
    try:
        await store.in_thread(store.files.drop_temps, temp)
    except OSError as error:
        store.disk_health.fail(f"a failed change could not be cleared away: {error}")
    if store.disk_health.failure is not None:
        return
    await store.wal.mark(begun, Step.ABORTED)
    failpoint("update.aborted")
    store.wal.close_intent(begun)


async def _tell(store: Store, file_id: str, begun: OpenIntent) -> None:
    # 5 and 6 Catalog row and change event; 7 closed. With the catalog away the intent stays open until it is back.
    await settle(store, file_id, begun)
    failpoint("update.settled")


def _next_revision(store: Store, order: RewriteOrder, attributes: Attributes, body: Body, hasher: Hasher) -> Attributes:
    return with_content(
        attributes,
        size_bytes=body.seen_bytes,
        sha256=hasher.sha256_if_as_stated(),
        content_type=order.content_type or attributes.content_type,
        now=store.now(),
    )


def require_revision(attributes: Attributes, if_revision: int | None) -> None:
    """Raises RevisionMismatch."""
    if if_revision is not None and if_revision != attributes.revision:
        raise RevisionMismatch(f"the file is at revision {attributes.revision}", revision=attributes.revision)

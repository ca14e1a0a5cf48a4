"""Put: the seven steps after which a file is on disk, in the catalog and announced. DESIGN.md has the crash table.

A small file (up to Limits.small_bytes) rides in the log's frame: the frame's sync is the file's sync, and steps 2 to 4 run
in the same thread hop, without syncs of their own. Anything that fails rolls back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from artstore.contracts.files import Attributes, NewFile, encode
from artstore.contracts.storage import GIVEN_UP_REASON
from artstore.errors import Conflict, Unavailable
from artstore.failpoints import failpoint

from .attributes import find_in, first_revision
from .body import Body, Expected
from .get import find_attributes
from .locks import Running
from .paths import ATTRIBUTES_SUFFIX
from .pending import owe, require_settled, settle
from .receive import Hasher, take_into
from .space import Reservation
from .store import PendingWork, Store
from .wal.log import OpenIntent
from .wal.records import UNPUBLISHED, Intent, Kind, Step, Unconfirmed


@dataclass(frozen=True, slots=True)
class PutOrder:
    """`saga_id` None: a put that is final at once (no caller over HTTP does that)."""

    file_id: str
    new: NewFile
    saga_id: str | None
    expected: Expected = field(default_factory=Expected)


@dataclass(frozen=True, slots=True)
class PutResult:
    attributes: Attributes
    created: bool
    """False: the same saga had put it already, and nothing was done."""


async def put(store: Store, order: PutOrder, body: Body) -> PutResult:
    """Durable when it returns. Raises Conflict, DigestMismatch, TooLarge, Malformed, StorageFull, Unavailable, ElementFailed."""
    store.disk_health.require_writable()
    running = Running(order.saga_id)
    return await store.to_the_end(_put_locked(store, order, body, running), running)


async def _put_locked(store: Store, order: PutOrder, body: Body, running: Running) -> PutResult:
    async with store.locks.hold(order.file_id):
        if order.saga_id in store.compensated:
            raise Conflict("the saga was compensated", reason=GIVEN_UP_REASON)
        # An earlier put of this id that is not undone to its end must be: its rest would strike the new file.
        await require_settled(store, order.file_id)
        earlier = await _find_earlier(store, order)
        if earlier is not None:
            return PutResult(earlier, created=False)
        store.running[order.file_id] = running
        try:
            with store.space.reservation() as reservation:
                reservation.ensure(body.stated_bytes or 0)
                async with running.stoppable():
                    head = await body.gather(store.limits.small_bytes + 1)
                return PutResult(await _put(store, order, head, body, running, reservation), created=True)
        except OSError as error:
            raise store.disk_health.explain(error) from error
        finally:
            del store.running[order.file_id]


async def _put(
    store: Store, order: PutOrder, head: list[bytes], body: Body, running: Running, reservation: Reservation
) -> Attributes:
    hasher = Hasher(order.expected)
    temp = store.files.new_temp(order.file_id)
    small = body.ended and body.seen_bytes <= store.limits.small_bytes
    described: Attributes | None = None
    counted: Attributes | None = None
    catalog_asked = False

    # 1 WAL: the intent, durable. A small file's frame carries its bytes and attributes: from here it will be.
    if small:
        begun, attributes, make = _begin_small(store, order, b"".join(head), temp, hasher, reservation)
        described = attributes
    else:
        begun = store.wal.begin(Intent(Kind.PUT_LARGE, order.file_id, order.saga_id, temp=temp))
    try:
        await begun.durable
        if not small:
            failpoint("put.intended")
            # 2 Temp: bytes, hashed on the way, then attr.json
            await take_into(store, store.files.paths.temp(temp), head, body, running, reservation, hasher)
            described = attributes = _describe(store, order, body, hasher)
            await store.in_thread(store.files.stage, temp + ATTRIBUTES_SUFFIX, encode(attributes))
            failpoint("put.staged")
            # 3 fsync of both temps
            await store.in_thread(store.files.sync_new, temp)
            failpoint("put.synced")
            # 4 Rename data, then attr.json, and sync the folder: attr.json in its place is the commit point
            running.require_wanted()
            await store.in_thread(store.files.publish, order.file_id, temp)
        elif make is not None:
            # 2 to 4 in one, from memory, where a frame does not carry the bytes: S3 answers when it is durable
            failpoint("put.intended")
            await store.in_thread(make)
        failpoint("put.published")
        counted = _count(store, order, attributes)
        # 5 Catalog: the row, pending while its saga is open, and the change event in one transaction
        running.require_wanted()
        catalog_asked = True
        await store.catalog.note(attributes, saga_id=order.saga_id, change="put")
        failpoint("put.noted")
        # 6 Discovery: wake the relay that publishes the event
        store.catalog.notify()
        failpoint("put.notified")
    except BaseException as error:
        if isinstance(error, OSError):
            store.disk_health.explain(error)
        undone = encode(described) if described is not None else UNPUBLISHED
        await _roll_back(store, order, begun, temp, counted, undone, catalog_asked=catalog_asked)
        raise
    # 7 WAL: closed, without a sync. Lost in a crash, recovery sees by attr.json that only 5 and 6 are to be repeated.
    store.wal.close_intent(begun)
    failpoint("put.closed")
    return attributes


def _begin_small(
    store: Store, order: PutOrder, data: bytes, temp: str, hasher: Hasher, reservation: Reservation
) -> tuple[OpenIntent, Attributes, Callable[[], None] | None]:
    """Everything that may be refused is refused before the frame is written: it cannot be taken back, only undone."""
    hasher.add(data)
    attributes = first_revision(
        order.file_id,
        order.new,
        size_bytes=len(data),
        sha256=hasher.sha256_if_as_stated(),
        element_id=store.element_id,
        now=store.now(),
    )
    encoded = encode(attributes)
    reservation.ensure(len(data) + len(encoded))
    kind = Kind.PUT_SMALL if store.files.rides_in_log else Kind.PUT_LARGE
    intent = Intent(kind, order.file_id, order.saga_id, encoded, temp)

    def write_and_rename() -> None:
        store.files.put_small(order.file_id, temp, data, encoded)

    begun, make = store.begin(intent, write_and_rename, data)
    return begun, attributes, make


def _describe(store: Store, order: PutOrder, body: Body, hasher: Hasher) -> Attributes:
    return first_revision(
        order.file_id,
        order.new,
        size_bytes=body.seen_bytes,
        sha256=hasher.sha256_if_as_stated(),
        element_id=store.element_id,
        now=store.now(),
    )


def _count(store: Store, order: PutOrder, attributes: Attributes) -> Attributes:
    store.usage.add(order.file_id, 1, attributes.size_bytes)
    if order.saga_id is not None:
        store.unconfirmed[order.file_id] = Unconfirmed(order.saga_id, store.clock.unix_s())
    return attributes


async def _find_earlier(store: Store, order: PutOrder) -> Attributes | None:
    """What the same saga put before, for a repeated call. Raises Conflict when the id is another's."""
    encoded = await store.query(find_attributes, store, order.file_id)
    if encoded is None:
        return None
    attributes = find_in(encoded, order.file_id)
    known = store.unconfirmed.get(order.file_id) or await store.catalog.find_standing(order.file_id)
    if attributes is None or known is None or order.saga_id is None or known.saga_id != order.saga_id:
        raise Conflict("there is a file with this id already")
    return attributes


async def _roll_back(
    store: Store,
    order: PutOrder,
    begun: OpenIntent,
    temp: str,
    counted: Attributes | None,
    undone: bytes,
    *,
    catalog_asked: bool,
) -> None:
    """attr.json, data, then the row; last the intent, as aborted.

    On a broken disk it takes away what it can and leaves the intent open: the next start decides by what it finds.
    While S3 is away it is owed, and done once S3 is back.
    """
    owed: PendingWork | None = None
    try:
        await store.in_thread(store.files.undo_put, order.file_id, temp)
    except Unavailable:
        owed = PendingWork(partial(store.files.undo_put, order.file_id, temp), gone=True)
    except OSError as error:
        # Whatever the disk's reason: what may still be seen was never answered, and must not be built upon.
        store.disk_health.fail(f"a failed put could not be undone: {error}")
        return
    failpoint("put.undone")
    if counted is not None:
        store.unconfirmed.pop(order.file_id, None)
        store.usage.add(order.file_id, -1, -counted.size_bytes)
    if store.disk_health.failure is not None:
        return
    await store.wal.mark(begun, Step.ABORTED, attributes=undone)
    failpoint("put.aborted")
    if owed is not None:
        owe(store, [begun], order.file_id, owed)
    elif catalog_asked:
        await settle(store, order.file_id, begun)
    else:
        store.wal.close_intent(begun)

"""Put: the seven steps after which a file is on disk, in the catalog and announced. DESIGN.md has the crash table.

The frame of a small file (up to Limits.small_bytes) carries its bytes: the frame's sync is the file's sync, and steps 2 to 4 run
in the log's thread without syncs of their own. A put that fails is rolled back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from artstore.contracts.files import Attributes, NewFile, encode
from artstore.contracts.storage import GIVEN_UP_REASON
from artstore.errors import Conflict, Unavailable
from artstore.failpoints import failpoint
from artstore.tracing import span

from .attributes import ABOVE_DELETE, find_in, first_revision, moved_here
from .get import find_attributes
from .pending import defer, require_settled, settle
from .receive import Body, Expected, IncomingBody
from .settle_late import may_settle_late, settle_late
from .store import PendingWork, Store
from .verified import REMEMBER_FROM_BYTES
from .wal.log import OpenIntent
from .wal.records import UNPUBLISHED, Intent, Kind, Step, Unconfirmed


@dataclass(frozen=True, slots=True)
class PutOrder:
    """`saga_id` None: the put is final at once. No caller over HTTP does that. `new` is Attributes for a file that
    moves here: those that it has on the other element."""

    file_id: str
    new: NewFile | Attributes
    saga_id: str | None
    expected: Expected = field(default_factory=Expected)
    settle_late: bool = False
    """The row may be written behind the answer, because the commit follows at once and no reader knows the id before."""


@dataclass(frozen=True, slots=True)
class PutResult:
    attributes: Attributes
    encoded: bytes
    """attr.json."""
    created: bool
    """False: the same saga had put the file already, and nothing was done."""


async def put(store: Store, order: PutOrder, body: Body | IncomingBody) -> PutResult:
    """Durable when it returns. Raises Conflict, DigestMismatch, TooLarge, Malformed, StorageFull, Unavailable, ElementFailed."""
    operation = PutOperation(store, order, body)
    return await store.complete(operation.run(), operation.body)


class PutSteps:
    """The state of one put, and the steps that it shares with those of other files (put_together.py)."""

    __slots__ = ("catalog_asked", "counted", "described", "encoded", "file_id", "order", "store", "temp")

    def __init__(self, store: Store, order: PutOrder) -> None:
        self.store, self.order, self.file_id = store, order, order.file_id
        self.temp = store.files.temps.new(order.file_id)
        self.described: Attributes | None = None
        """The attributes, once the whole body is known."""
        self.encoded = b""
        self.counted = False
        self.catalog_asked = False

    def describe(self, size_bytes: int, sha256: str) -> Attributes:
        """Raises InvalidFields."""
        new, element_id, now = self.order.new, self.store.element_id, self.store.now()
        if isinstance(new, Attributes):
            described = moved_here(new, element_id=element_id, now=now)
        else:
            described = first_revision(
                self.file_id, new, size_bytes=size_bytes, sha256=sha256, element_id=element_id, now=now
            )
        self.encoded = encode(described)
        self.described = described
        return described

    def log_small(self, data: bytes) -> OpenIntent:
        """All checks come before: a written frame cannot be taken back, only undone."""
        intent = Intent(Kind.PUT_SMALL, self.file_id, self.order.saga_id, self.encoded, self.temp)
        publish = partial(self.store.files.publish_small, self.file_id, self.temp, data, self.encoded)
        return self.store.begin(intent, publish, data)

    def count(self) -> Attributes:
        """Called once the file exists. Returns what `describe` made."""
        assert self.described is not None
        self.store.usage.add(self.file_id, 1, self.described.size_bytes)
        self.counted = True
        if self.order.saga_id is not None:
            self.store.unconfirmed[self.file_id] = Unconfirmed(self.order.saga_id, self.store.clock.unix_s())
        return self.described

    async def roll_back(self, intent: OpenIntent, reason: BaseException) -> None:
        """Remove attr.json, then data, then the row; last the intent is marked as aborted.

        On a failed disk the intent stays open: the next start decides by what it finds. While S3 does not answer, the undo is
        pending, and made when S3 answers.
        """
        store, undo = self.store, partial(self.store.files.undo_put, self.file_id, self.temp)
        if isinstance(reason, OSError):
            store.disk_health.explain(reason)
        undo_pending = False
        try:
            await store.in_thread(undo)
        except Unavailable:
            undo_pending = True
        except OSError as error:
            # Whatever the reason: what may still be visible was never acknowledged, and must not be built upon.
            store.disk_health.fail(f"a failed put could not be undone: {error}")
            return
        failpoint("put.undone")
        if self.counted and self.described is not None:
            store.unconfirmed.pop(self.file_id, None)
            store.usage.add(self.file_id, -1, -self.described.size_bytes)
        if store.disk_health.failure is not None:
            return
        await store.wal.mark(intent, Step.ABORTED, attributes=self.encoded or UNPUBLISHED)
        failpoint("put.aborted")
        if undo_pending:
            defer(store, self.file_id, [intent], PendingWork(undo, removes=True))
        elif self.catalog_asked:
            await settle(store, self.file_id, intent)
        else:
            store.wal.close_intent(intent)


class PutOperation(PutSteps):
    """One put, from its body to its answer. `run` must not be cancelled (`Store.complete`)."""

    __slots__ = ("body",)

    def __init__(self, store: Store, order: PutOrder, body: Body | IncomingBody) -> None:
        super().__init__(store, order)
        if isinstance(body, Body):
            body = IncomingBody(store, order.file_id, body, order.expected, order.saga_id)
        self.body = body

    async def run(self) -> PutResult:
        self.store.disk_health.require_writable()
        async with self.store.locks.hold(self.file_id):
            if self.order.saga_id in self.store.compensated:
                raise Conflict("the saga was compensated", reason=GIVEN_UP_REASON)
            # An earlier put of this id must be undone completely: the rest of its undo would remove the new file.
            await require_settled(self.store, self.file_id)
            earlier = await self._find_earlier()
            if earlier is not None:
                return PutResult(earlier, encode(earlier), created=False)
            with self.body:
                await self.body.receive_head()
                return PutResult(await self._put(), self.encoded, created=True)

    async def _put(self) -> Attributes:
        store = self.store
        # 1 WAL: the intent, durable. A small file's frame carries bytes and attributes: once it is synced the file will exist.
        intent = self._begin_small() if self.body.is_small else self._begin_large()
        try:
            await intent.logged()
            if self.described is None:
                failpoint("put.intended")
                # 2 Temp: the bytes, hashed on the way
                with span("put.receive"):
                    await self.body.write_to(store.files.temps.data(self.temp))
                size_bytes = self._describe().size_bytes
                failpoint("put.staged")
                # 3 and 4 fsync data and attr.json, rename both, fsync the folder: attr.json in its place is the commit point
                self.body.require_wanted()
                with span("put.publish"):
                    await store.in_thread(store.files.publish, self.file_id, self.temp, self.encoded)
                if size_bytes >= REMEMBER_FROM_BYTES and store.files.nonblocking_reads:
                    await store.in_thread(store.verified.add_written, self.file_id, store.files)
            elif intent.work is not None:
                # 2 to 4 from memory, where the frame does not carry the bytes: S3 answers when they are durable
                failpoint("put.intended")
                with span("put.publish"):
                    await store.in_thread(intent.work)
            failpoint("put.published")
            attributes = self.count()
            self.body.require_wanted()
            if self.order.settle_late and self.body.is_small and may_settle_late(store):
                # Steps 5 to 7 follow behind the answer, with those of other files. A crash leaves what it does after 4.
                settle_late(store, self.file_id, intent)
                return attributes
            # 5 Catalog: the row, pending while its saga is open, and the change event in one transaction
            self.catalog_asked = True
            await store.catalog.note(attributes, saga_id=self.order.saga_id, change="put")
            failpoint("put.noted")
            # 6 Discovery: wake the relay that publishes the event
            store.catalog.notify()
            failpoint("put.notified")
        except BaseException as error:
            await self.roll_back(intent, error)
            raise
        # 7 WAL: closed, without a sync. If a crash loses it, recovery finds attr.json and repeats only 5 and 6.
        store.wal.close_intent(intent)
        failpoint("put.closed")
        return attributes

    def _begin_small(self) -> OpenIntent:
        data = self.body.take_small()
        self._describe()
        self.body.reserve(len(data) + len(self.encoded))
        return self.log_small(data)

    def _begin_large(self) -> OpenIntent:
        return self.store.wal.begin(Intent(Kind.PUT_LARGE, self.file_id, self.order.saga_id, temp=self.temp))

    def _describe(self) -> Attributes:
        """Raises DigestMismatch, InvalidFields."""
        return self.describe(self.body.size_bytes, self.body.verified_sha256())

    async def _find_earlier(self) -> Attributes | None:
        """The file, if the same saga put it before: the call is a repeat. Raises Conflict when the id is taken otherwise."""
        encoded = await self.store.query(find_attributes, self.store, self.file_id)
        if encoded is None:
            return None
        attributes, saga_id = find_in(encoded, self.file_id), self.order.saga_id
        if attributes is not None and self._is_copy(attributes):
            return attributes
        known = self.store.unconfirmed.get(self.file_id) or await self.store.catalog.find_entry(self.file_id)
        if attributes is None or known is None or saga_id is None or known.saga_id != saga_id:
            raise Conflict("a file with this id exists already")
        return attributes

    def _is_copy(self, attributes: Attributes) -> bool:
        """The file has moved here before, perhaps for a saga that a restored catalog does not know."""
        source = self.order.new
        return isinstance(source, Attributes) and (
            (attributes.revision, attributes.checksum) == (source.revision + ABOVE_DELETE, source.checksum)
        )

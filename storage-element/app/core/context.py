"""The parts of a running element, opened and closed in one place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request

from artstore.audit.event import Event
from artstore.audit.reads import ReadAudit
from artstore.auth.client import open_account
from artstore.auth.links import LinkVerifier
from artstore.auth.tokens import TokenVerifier
from artstore.auth.verifier import open_keys
from artstore.clock import Clock
from artstore.contracts.tokens import Audience
from artstore.database import Database, open_database
from artstore.errors import ADMIN, Unavailable
from artstore.http.body import BodyLimits
from artstore.invalidate import Invalidation
from artstore.logs import get_logger
from artstore.metrics import FileMetrics
from artstore.outbox import Outbox
from artstore.peers.breaker import Breakers
from artstore.peers.session import Peers, open_peers
from artstore.redis import open_redis
from artstore.runtime import Runtime

from ..catalog import PostgresCatalog
from ..element import Announced, Element
from ..serving import Serving
from ..startup import RootSettings, Startup
from ..store.backends.s3_claim import find_bound_root_id, require_backend
from ..store.open import StoreSettings, open_store
from ..store.paths import Paths
from ..store.pending import settle_all
from ..store.space import Reserve
from ..store.store import FileChange, Limits, Store
from ..store.unfinished import Uploads
from ..store.wal.ring import WalLimits
from ..upkeep.generation import CatalogGeneration
from ..upkeep.journal import Journal
from ..upkeep.rows import Rows
from ..upkeep.upkeep import Upkeep, UpkeepSettings, allowed_in
from .config import Settings
from .metrics import show_element, show_serving, show_store, show_uploads
from .s3 import open_bucket

log = get_logger("element")

SETTLE_EVERY_S = 2.0
EXPIRE_UPLOADS_EVERY_S = 10.0
CHECK_ROOT_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that exist once the store is open."""

    store: Store
    upkeep: Upkeep
    uploads: Uploads


@dataclass(slots=True)
class Context:
    verifier: TokenVerifier
    link_verifier: LinkVerifier
    reads: ReadAudit
    element: Element
    serving: Serving
    invalidation: Invalidation
    files: FileMetrics
    limits: BodyLimits
    clock: Clock
    peers: Peers
    parts: Parts | None = None

    @property
    def store(self) -> Store:
        """Raises Unavailable until it is open."""
        return self._parts().store

    @property
    def upkeep(self) -> Upkeep:
        """Raises Unavailable until the store is open."""
        return self._parts().upkeep

    @property
    def uploads(self) -> Uploads:
        """Raises Unavailable until the store is open."""
        return self._parts().uploads

    def _parts(self) -> Parts:
        if self.parts is None:
            self.serving.require()
            raise Unavailable("the element is starting")
        return self.parts


def context_of(request: Request) -> Context:
    """The context of the process that answers `request`."""
    context: Context = request.app.state.context
    return context


@asynccontextmanager
async def open_context(settings: Settings, runtime: Runtime) -> AsyncIterator[Context]:
    """Needs only a root that does not belong to another element. The store is opened behind the open port.
    Raises RootRefused."""
    async with AsyncExitStack() as opened:
        breakers = Breakers(runtime.registry)
        database = await opened.enter_async_context(open_database(settings, runtime, breakers))
        redis = await opened.enter_async_context(open_redis(settings, runtime, breakers))
        peers = await opened.enter_async_context(
            open_peers(breakers, open_account(settings, runtime, breakers, required=False))
        )
        admin = peers.to(ADMIN, settings.admin_url)
        serving, announced = Serving(settings.storage_element_id), announced_by(settings)
        element = Element(announced, serving, admin, runtime.clock)
        keys = open_keys(runtime, settings, admin, redis)
        context = Context(
            verifier=TokenVerifier(keys, Audience.STORAGE, runtime.clock),
            link_verifier=LinkVerifier(keys, runtime.clock),
            reads=ReadAudit(runtime.audit, settings.audit_reads),
            element=element,
            serving=serving,
            invalidation=Invalidation(
                redis,
                runtime.registry,
                element_id=settings.storage_element_id,
                is_unsettled=lambda file_id: is_unsettled(context, file_id),
            ),
            files=runtime.files,
            limits=settings.body_limits,
            clock=runtime.clock,
            peers=peers,
        )
        parts = StoreParts(settings, runtime, database, Outbox(runtime, database, redis), context)
        startup = Startup(root_settings(settings), announced, element, serving, runtime.clock, runtime.refuse)
        opened.push_async_callback(startup.close)
        show_serving(serving, runtime)
        show_element(element, runtime)
        await startup.begin(parts.open)
        runtime.health.add("root", serving.check_root, every_s=CHECK_ROOT_EVERY_S)
        runtime.health.add("recovery", serving.check_recovery)
        yield context


def is_unsettled(context: Context, file_id: str) -> bool:
    """True if the catalog lacks a change of this file."""
    return context.parts is not None and file_id in context.parts.store.unsettled


@dataclass(frozen=True, slots=True)
class StoreParts:
    """Opens the store and its background tasks, once the root is open."""

    settings: Settings
    runtime: Runtime
    database: Database
    outbox: Outbox
    context: Context

    async def open(self, paths: Paths, opened: AsyncExitStack) -> None:
        settings, runtime, serving, element = self.settings, self.runtime, self.context.serving, self.context.element
        confirmed = serving.require_confirmed
        catalog = PostgresCatalog(self.database, self.outbox, settings.storage_element_id, confirmed)
        bucket = await open_bucket(settings, paths) if settings.storage_backend == "s3" else None
        store = await opened.enter_async_context(
            open_store(
                paths,
                store_settings(settings),
                catalog,
                runtime.clock,
                bucket.backend if bucket is not None else None,
                progress=serving.progress,
                require_confirmed=confirmed,
                record_change=self._record_change,
            )
        )
        uploads = Uploads(store, settings.storage_upload_ttl_s)
        await store.scan_in_thread(uploads.load)
        rows = Rows(self.database, self.outbox, settings.storage_element_id, confirmed)
        if bucket is not None:
            bucket.watch(settings, runtime, store, rows)
        generation = CatalogGeneration(store, rows, Journal(paths))
        await generation.load()
        upkeep = Upkeep(
            store,
            rows,
            generation,
            upkeep_settings(settings),
            runtime.tasks,
            allowed_in(lambda: element.mode),
            element.announce_now,
        )
        opened.callback(serving.close)
        opened.push_async_callback(upkeep.confirm.last_round)  # runs first, while the element still serves
        show_store(store, upkeep, runtime, settings.storage_element_id)
        show_uploads(uploads, runtime)
        self.context.parts = Parts(store, upkeep, uploads)
        element.take_store(store, generation)
        serving.open = True
        # Not required for readiness: files are still read.
        runtime.health.add("disk", element.check_disk, required=False, every_s=CHECK_ROOT_EVERY_S, timeout_s=10)
        watch = RootWatch(serving, element)
        runtime.tasks.every("root", CHECK_ROOT_EVERY_S, watch.check)
        runtime.tasks.every("announce", settings.element_announce_every_s, element.announce_until_answered)
        runtime.tasks.start("upkeep", self._start_tasks(store, upkeep, partial(_expire_uploads, uploads, rows)))

    async def _record_change(self, change: FileChange) -> None:
        metadata = {
            "file_size": change.size_bytes,
            "storage_element": self.settings.storage_element_id,
            "revision": change.revision,
        }
        event = Event(f"file:{change.action}", change.account, change.file_id, metadata=metadata)
        await self.runtime.audit.record(event)

    async def _start_tasks(self, store: Store, upkeep: Upkeep, expire_uploads: Callable[[], Awaitable[None]]) -> None:
        """Not before admin has accepted the root, which may be a copy."""
        await self.context.element.confirmed.wait()
        self.runtime.tasks.every("settle", SETTLE_EVERY_S, partial(settle_all, store))
        self.runtime.tasks.every("expire-uploads", EXPIRE_UPLOADS_EVERY_S, expire_uploads)
        await upkeep.begin()


async def _expire_uploads(uploads: Uploads, rows: Rows) -> None:
    """By the clock of this element and by PostgreSQL's: one wrong clock removes nothing. PostgreSQL is asked only when
    something is due."""
    uploads.release_idle()
    if uploads.is_any_due(uploads.store.clock.now()):
        await uploads.expire(await rows.agreed_now(uploads.store.clock))


class RootWatch:
    """Reports to admin as soon as the root is gone or back."""

    def __init__(self, serving: Serving, element: Element) -> None:
        self._serving, self._element = serving, element
        self._reported: str | None = None

    async def check(self) -> None:
        fault = self._serving.presence.find_fault() if self._serving.presence is not None else None
        if fault == self._reported:
            return
        self._reported = fault
        if fault is not None:
            log.error("root gone: nothing is served", reason=fault)
        else:
            log.info("root is back")
        await self._element.announce_now()


def announced_by(settings: Settings) -> Announced:
    return Announced(
        element_id=settings.storage_element_id,
        url=settings.element_url,
        public_url=settings.element_public_url,
        backend=settings.storage_backend,
        priority=settings.storage_priority,
        mode=settings.storage_mode,
        mode_forced=settings.storage_mode_force,
    )


def root_settings(settings: Settings) -> RootSettings:
    s3 = settings.storage_backend == "s3"
    return RootSettings(
        path=str(settings.storage_root),
        local_files=not s3,
        find_root_id=find_bound_root_id,
        check_backend=partial(require_backend, s3=s3),
    )


def store_settings(settings: Settings) -> StoreSettings:
    return StoreSettings(
        element_id=settings.storage_element_id,
        root=str(settings.storage_root),
        reserve=Reserve(settings.storage_reserve_bytes),
        quota_bytes=settings.storage_quota_bytes,
        limits=Limits(max_file_bytes=settings.max_file_size_bytes),
        wal=WalLimits(settings.storage_wal_segment_bytes),
    )


def upkeep_settings(settings: Settings) -> UpkeepSettings:
    return UpkeepSettings(
        lease_s=settings.saga_lease_s,
        verify_bytes_per_s=settings.storage_verify_bytes_per_s,
        verify_every_s=settings.storage_verify_every_s,
        sweep_grace_s=settings.storage_sweep_grace_s,
        sweep_dry_run=settings.storage_sweep_dry_run,
    )

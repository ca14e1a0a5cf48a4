"""What a running element consists of, opened and closed in one place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from artstore.auth.client import open_account
from artstore.auth.remote import open_verifier
from artstore.auth.tokens import TokenVerifier
from artstore.breaker import Breakers
from artstore.clock import Clock
from artstore.contracts.tokens import Audience
from artstore.database import open_database
from artstore.metrics import FileMetrics
from artstore.peers import open_peers
from artstore.redis import open_redis
from artstore.service import Runtime

from ..api.receiving import Patience
from ..capacity import Reserve
from ..catalog import PostgresCatalog
from ..element import Announced, Element, start_identity
from ..store.backends.s3_claim import require_backend
from ..store.opening import StoreSettings, locked_root, open_store
from ..store.ring import WalLimits
from ..store.settle import settle_all
from ..store.store import Limits, Store
from ..telling import Telling
from ..upkeep.rows import Rows
from ..upkeep.upkeep import Upkeep, UpkeepSettings, allowed_in
from .config import Settings
from .metrics import show_store
from .redis import open_outbox
from .s3 import open_bucket

SETTLE_EVERY_S = 2.0
LOOK_AT_DISK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Context:
    """`request.app.state.context` of every handler."""

    verifier: TokenVerifier
    element: Element
    store: Store
    upkeep: Upkeep
    telling: Telling
    files: FileMetrics
    patience: Patience
    clock: Clock


@asynccontextmanager
async def open_context(settings: Settings, runtime: Runtime) -> AsyncIterator[Context]:
    """Needs its root and nothing else: PostgreSQL, Redis and admin may come later. Raises RootRefused."""
    async with AsyncExitStack() as opened:
        paths = await opened.enter_async_context(locked_root(str(settings.storage_root)))
        await asyncio.to_thread(require_backend, paths, s3=settings.storage_backend == "s3")
        identity = await asyncio.to_thread(
            partial(
                start_identity,
                paths,
                settings.storage_element_id,
                settings.storage_mode,
                force=settings.storage_mode_force,
                clock=runtime.clock,
            )
        )
        breakers = Breakers(runtime.registry)
        database = await opened.enter_async_context(open_database(settings, runtime, breakers))
        redis = await opened.enter_async_context(open_redis(settings, runtime, breakers))
        peers = await opened.enter_async_context(
            open_peers(settings, breakers, open_account(settings, runtime, breakers, required=False))
        )
        admin = peers.to("admin", settings.admin_url)
        outbox = open_outbox(runtime, database, redis)
        catalog = PostgresCatalog(database, outbox, settings.storage_element_id)
        bucket = await open_bucket(settings, paths) if settings.storage_backend == "s3" else None
        files = bucket.backend if bucket is not None else None
        store = await opened.enter_async_context(
            open_store(paths, store_settings(settings), catalog, runtime.clock, files)
        )
        if bucket is not None:
            bucket.watch(settings, runtime, store)
        announced = Announced(settings.element_url, settings.storage_backend, settings.storage_priority)
        element = Element(identity, paths, store, announced, admin)
        rows = Rows(database, outbox, settings.storage_element_id)
        upkeep = Upkeep(store, rows, upkeep_settings(settings), runtime.tasks, allowed_in(lambda: element.mode))
        show_store(store, upkeep, runtime, settings.storage_element_id)
        runtime.tasks.every("announce", settings.element_announce_every_s, element.announce_until_heard)
        # Not required: what is there is still read.
        runtime.health.add("disk", element.check_disk, required=False, every_s=LOOK_AT_DISK_EVERY_S, timeout_s=10)
        runtime.tasks.every("settle", SETTLE_EVERY_S, partial(settle_all, store))
        await upkeep.begin()
        yield Context(
            verifier=open_verifier(runtime, settings, Audience.STORAGE, admin, redis),
            element=element,
            store=store,
            upkeep=upkeep,
            telling=Telling(redis, settings.storage_element_id, store.unsettled.__contains__, runtime.registry),
            files=runtime.files,
            patience=Patience(
                settings.body_idle_timeout_s, settings.body_min_rate_bytes_per_s, settings.max_file_size_bytes
            ),
            clock=runtime.clock,
        )


def store_settings(settings: Settings) -> StoreSettings:
    return StoreSettings(
        element_id=settings.storage_element_id,
        root=str(settings.storage_root),
        reserve=Reserve(
            bytes=settings.storage_reserve_bytes,
            percent=settings.storage_reserve_percent,
            inodes=settings.storage_reserve_inodes,
        ),
        quota_bytes=settings.storage_quota_bytes,
        limits=Limits(settings.storage_small_file_bytes, settings.max_file_size_bytes),
        wal=WalLimits(settings.storage_wal_segment_bytes, settings.storage_wal_max_segments),
    )


def upkeep_settings(settings: Settings) -> UpkeepSettings:
    return UpkeepSettings(
        lease_s=settings.saga_lease_s,
        verify_bytes_per_s=settings.storage_verify_bytes_per_s,
        verify_every_s=settings.storage_verify_every_s,
        sweep_grace_s=settings.storage_sweep_grace_s,
        sweep_dry_run=settings.storage_sweep_dry_run,
    )

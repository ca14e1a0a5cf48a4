"""The parts of a running query module, opened and closed in one place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from starlette.requests import Request

from artstore.audit.reads import ReadAudit
from artstore.auth.client import open_account
from artstore.auth.links import LinkVerifier
from artstore.auth.tokens import TokenVerifier
from artstore.auth.verifier import open_keys
from artstore.contracts.tokens import Audience
from artstore.database import Database, open_database
from artstore.discovery import Discovery
from artstore.errors import ADMIN
from artstore.metrics import FileMetrics
from artstore.peers.breaker import Breakers
from artstore.peers.session import open_peers
from artstore.redis import open_redis
from artstore.runtime import Runtime

from ..links import Links
from ..reading.attributes import AttributesLevel
from ..reading.catalog import CatalogLevel
from ..reading.content import Content
from ..reading.hot import HotContents, SmallFiles
from ..reading.invalidation import Invalidation
from ..reading.levels import LevelMetrics, Levels
from ..reading.lookup import Lookup
from ..reading.memory import ABSENT_TTL_S, Memory
from ..reading.redis import RedisLevel
from ..reading.refill import Refill
from ..reading.relay import RelayMetrics
from ..search.feed import POLL_INTERVAL_S, Feed
from .config import Settings


@dataclass(frozen=True, slots=True)
class Context:
    verifier: TokenVerifier
    database: Database
    lookup: Lookup
    invalidation: Invalidation
    content: Content
    discovery: Discovery
    files: FileMetrics
    feed: Feed
    links: Links
    link_verifier: LinkVerifier
    reads: ReadAudit
    public_url: str | None


def context_of(request: Request) -> Context:
    """The context of the process that answers `request`."""
    context: Context = request.app.state.context
    return context


@asynccontextmanager
async def open_context(settings: Settings, runtime: Runtime) -> AsyncIterator[Context]:
    """Readiness requires neither PostgreSQL nor Redis, because reads continue as long as an element answers."""
    async with AsyncExitStack() as opened:
        breakers = Breakers(runtime.registry)
        database = await opened.enter_async_context(open_database(settings, runtime, breakers, required=False))
        redis = await opened.enter_async_context(open_redis(settings, runtime, breakers))
        peers = await opened.enter_async_context(
            open_peers(breakers, open_account(settings, runtime, breakers, required=True))
        )
        admin = peers.to(ADMIN, settings.admin_url)
        keys = open_keys(runtime, settings, admin, redis)
        discovery = Discovery(
            runtime,
            redis,
            admin,
            file=settings.discovery_file,
            fallback=settings.storage_elements,
            on_elements=peers.retain,
        )
        runtime.health.add("discovery", discovery.check)
        hot = HotContents(runtime.clock, settings.content_cache_bytes, settings.cache_memory_ttl_s, runtime.registry)
        small = SmallFiles(peers, hot, settings.element_answer_timeout_s)
        attributes = AttributesLevel(peers, discovery, small)
        levels = Levels(
            memory=Memory(
                runtime.clock,
                max_entries=settings.cache_memory_entries,
                ttl_s=settings.cache_memory_ttl_s,
                absent_ttl_s=ABSENT_TTL_S,
            ),
            redis=RedisLevel(redis),
            catalog=CatalogLevel(database, runtime.clock, timeout_s=settings.catalog_timeout_s),
            attributes=attributes,
            refill=Refill(database, attributes, runtime.registry),
            metrics=LevelMetrics(runtime.registry),
        )
        lookup = Lookup(levels)
        opened.push_async_callback(lookup.close)
        runtime.tasks.forever("catalog-refill", levels.refill.run)
        runtime.tasks.forever("redis-fill", levels.redis.fill)
        invalidation = Invalidation(redis, levels.redis, lookup, runtime.tasks)
        metrics = RelayMetrics(runtime.registry, runtime.files)
        content = Content(
            lookup,
            small,
            hot,
            peers,
            discovery,
            metrics,
            settings.element_answer_timeout_s,
            settings.element_idle_timeout_s,
            settings.body_rate,
        )
        feed = Feed(database)
        runtime.tasks.every("changes-feed", POLL_INTERVAL_S, feed.poll)
        runtime.tasks.start("changes-feed-end", feed.end_waits(runtime.health.stopping))
        yield Context(
            TokenVerifier(keys, Audience.QUERY, runtime.clock),
            database,
            lookup,
            invalidation,
            content,
            discovery,
            runtime.files,
            feed,
            Links(admin, runtime.audit, discovery, runtime.clock),
            LinkVerifier(keys, runtime.clock),
            ReadAudit(runtime.audit, settings.audit_reads),
            settings.public_url,
        )

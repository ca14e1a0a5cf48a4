"""The parts of a running ingester, opened and closed in one place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from starlette.requests import Request

from artstore.auth.client import open_account
from artstore.auth.tokens import TokenVerifier
from artstore.auth.verifier import open_verifier
from artstore.clock import Clock
from artstore.contracts.tokens import Audience
from artstore.database import Database, open_database
from artstore.discovery import Discovery
from artstore.errors import ADMIN
from artstore.http.body import BodyLimits
from artstore.invalidate import Invalidation
from artstore.metrics import FileMetrics
from artstore.peers.breaker import Breakers
from artstore.peers.session import open_peers
from artstore.redis import open_redis
from artstore.runtime import Runtime

from ..admin import Attempts, Sagas
from ..claims import Claims
from ..elements import Elements
from ..idempotency.keys import Keys
from ..resumable.elements import UploadElements
from .config import Settings


@dataclass(frozen=True, slots=True)
class Context:
    verifier: TokenVerifier
    database: Database
    discovery: Discovery
    elements: Elements
    uploads: UploadElements
    sagas: Sagas
    claims: Claims
    invalidation: Invalidation
    keys: Keys
    files: FileMetrics
    limits: BodyLimits
    clock: Clock
    query_url: str | None


def context_of(request: Request) -> Context:
    """The context of the process that answers `request`."""
    context: Context = request.app.state.context
    return context


@asynccontextmanager
async def open_context(settings: Settings, runtime: Runtime) -> AsyncIterator[Context]:
    """PostgreSQL, Redis, admin and the elements may become available later."""
    async with AsyncExitStack() as opened:
        breakers = Breakers(runtime.registry)
        database = await opened.enter_async_context(open_database(settings, runtime, breakers))
        redis = await opened.enter_async_context(open_redis(settings, runtime, breakers))
        peers = await opened.enter_async_context(
            open_peers(breakers, open_account(settings, runtime, breakers, required=True))
        )
        admin = peers.to(ADMIN, settings.admin_url)
        elements = Elements(
            peers,
            idle_timeout_s=settings.element_idle_timeout_s,
            call_timeout_s=settings.element_call_timeout_s,
        )
        discovery = Discovery(
            runtime,
            redis,
            admin,
            file=settings.discovery_file,
            fallback=settings.storage_elements,
            on_elements=elements.retain,
        )
        runtime.health.add("discovery", discovery.check)
        attempts = Attempts(runtime.registry)
        yield Context(
            verifier=open_verifier(runtime, settings, Audience.INGESTER, admin, redis),
            database=database,
            discovery=discovery,
            elements=elements,
            uploads=UploadElements(
                peers,
                idle_timeout_s=settings.element_idle_timeout_s,
                call_timeout_s=settings.element_call_timeout_s,
            ),
            sagas=Sagas(admin, runtime.tasks, attempts, timeout_s=settings.peer_timeout_s),
            claims=Claims(admin, runtime.tasks, attempts, timeout_s=settings.peer_timeout_s),
            invalidation=Invalidation(redis, runtime.registry),
            keys=Keys(database, runtime.tasks, runtime.registry, lease_s=settings.idempotency_lease_s),
            files=runtime.files,
            limits=settings.body_limits,
            clock=runtime.clock,
            query_url=settings.query_url,
        )

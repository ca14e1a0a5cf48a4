"""Everything admin has open while it runs, opened and closed in one place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from starlette.requests import Request

from artstore.auth.tokens import TokenVerifier
from artstore.clock import Clock, uuid7
from artstore.contracts.tokens import Audience
from artstore.database import Database, open_database
from artstore.outbox import Outbox
from artstore.peers.breaker import Breakers
from artstore.peers.session import open_peers
from artstore.redis import open_redis
from artstore.runtime import Runtime

from ..audit.chain import Auditor
from ..audit.checkpoints import Checkpoints
from ..audit.seals import Seals
from ..audit.truncation import TruncationMonitor
from ..audit.verified import VerifiedStore
from ..audit.verify import PeriodicVerification, Verification
from ..elements.commands import ElementCommands
from ..elements.generations import Generations
from ..elements.publish import Publisher
from ..identity.issue import Issuer, OwnToken
from ..identity.keyring import Keyring
from ..identity.secrets import KeyCipher, SecretHasher
from ..sagas.client_ids import ClientIds
from ..sagas.maintenance import SagaMaintenance
from ..sagas.upload import UploadSagas
from ..sagas.worker import SagaWorker
from ..schema import Schema
from .config import Settings, decode_key


@dataclass(frozen=True, slots=True)
class Context:
    """All that the handlers and periodic tasks of this process share."""

    settings: Settings
    clock: Clock
    schema: Schema
    registry: CollectorRegistry
    database: Database
    redis: Redis
    auditor: Auditor
    checkpoints: Checkpoints
    truncation: TruncationMonitor
    seals: Seals
    verification: Verification
    periodic_verification: PeriodicVerification
    cipher: KeyCipher
    hasher: SecretHasher
    keyring: Keyring
    issuer: Issuer
    verifier: TokenVerifier
    publisher: Publisher
    generations: Generations
    commands: ElementCommands
    uploads: UploadSagas
    client_ids: ClientIds
    saga_worker: SagaWorker
    maintenance: SagaMaintenance
    outbox: Outbox


def context_of(request: Request) -> Context:
    """The context of the process that answers `request`."""
    context: Context = request.app.state.context
    return context


@asynccontextmanager
async def open_context(settings: Settings, runtime: Runtime) -> AsyncIterator[Context]:
    """Opens without PostgreSQL and Redis; both may become available later."""
    clock, registry = runtime.clock, runtime.registry
    async with AsyncExitStack() as stack:
        breakers = Breakers(registry)
        database = await stack.enter_async_context(open_database(settings, runtime, breakers))
        redis = await stack.enter_async_context(open_redis(settings, runtime, breakers))

        previous = settings.key_encryption_key_previous
        cipher = KeyCipher(decode_key(settings.key_encryption_key), decode_key(previous) if previous else None)
        hasher = SecretHasher(decode_key(settings.secret_hash_key))
        auditor = Auditor(database, cipher, clock)
        keyring = Keyring(database, redis, cipher, auditor, settings.key_schedule, clock, registry)
        runtime.health.add("signing_keys", keyring.check)
        issuer = Issuer(database, hasher, keyring.signer, clock, uuid7, settings.access_token_lifetime_s)

        own_token = OwnToken(issuer, clock)
        peers = await stack.enter_async_context(open_peers(breakers, lambda _session: own_token))
        registry_changed = asyncio.Event()
        generations = Generations(database, auditor, registry, registry_changed.set)
        publisher = Publisher(database, redis, generations, registry_changed, peers.retain)
        lease_s, call_timeout_s = settings.saga_lease_s, settings.element_call_timeout_s
        saga_worker = SagaWorker(
            database,
            peers,
            generations,
            auditor,
            registry,
            publisher.wake,
            lease_s,
            call_timeout_s,
            issuer.issue_reading_token,
        )
        checkpoints = Checkpoints(database, redis, auditor, clock, settings.audit_checkpoint_every_s)
        truncation = TruncationMonitor(database, redis, auditor, registry)
        seals = Seals(database, auditor, clock)
        verified = VerifiedStore(redis, auditor, clock, registry)
        verification = Verification(database, auditor, checkpoints, truncation, seals, verified)
        outbox = Outbox(runtime, database, redis)
        context = Context(
            settings=settings,
            clock=clock,
            schema=Schema(settings.migration_url, settings.database_roles_file),
            registry=registry,
            database=database,
            redis=redis,
            auditor=auditor,
            checkpoints=checkpoints,
            truncation=truncation,
            seals=seals,
            verification=verification,
            periodic_verification=PeriodicVerification(
                verification, verified, redis, clock, settings.audit_verify_every_s
            ),
            cipher=cipher,
            hasher=hasher,
            keyring=keyring,
            issuer=issuer,
            verifier=TokenVerifier(keyring, Audience.ADMIN, clock),
            publisher=publisher,
            generations=generations,
            commands=ElementCommands(database, peers, auditor, call_timeout_s),
            uploads=UploadSagas(database, clock, lease_s, saga_worker.wake),
            client_ids=ClientIds(database, generations, lease_s, saga_worker.wake, outbox.wake),
            saga_worker=saga_worker,
            maintenance=SagaMaintenance(database, generations, registry, lease_s, saga_worker.wake),
            outbox=outbox,
        )
        yield context

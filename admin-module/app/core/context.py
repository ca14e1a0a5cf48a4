"""Everything admin has open while it runs, opened and closed in one place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from artstore.auth.tokens import TokenVerifier
from artstore.clock import Clock, uuid7
from artstore.contracts.tokens import Audience
from artstore.database import Database, open_database
from artstore.outbox import Outbox
from artstore.peers.breaker import Breakers
from artstore.peers.session import Peers, open_peers
from artstore.redis import open_redis
from artstore.service import Runtime

from ..audit.chain import Auditor
from ..audit.checkpoints import Checkpoints
from ..audit.heads import Heads
from ..audit.seals import Seals
from ..audit.verify import Verification
from ..elements.commands import Commands
from ..elements.generations import Generations
from ..elements.publish import Publisher
from ..identity.issue import Issuer
from ..identity.keyring import Keyring
from ..identity.own_token import OwnToken
from ..identity.rotation import Schedule
from ..identity.secrets import SecretHasher
from ..sagas.change import QueuedChanges
from ..sagas.keep import Keeper
from ..sagas.resume import Resume
from ..sagas.upkeep import Upkeep
from ..sagas.upload import UploadSagas
from ..schema import Schema
from ..seal import Sealer
from .config import Settings, decode_key


@dataclass(frozen=True, slots=True)
class Context:
    """`request.app.state.context` of every handler."""

    settings: Settings
    clock: Clock
    schema: Schema
    registry: CollectorRegistry
    database: Database
    redis: Redis
    peers: Peers
    auditor: Auditor
    checkpoints: Checkpoints
    heads: Heads
    seals: Seals
    verification: Verification
    hasher: SecretHasher
    keyring: Keyring
    issuer: Issuer
    verifier: TokenVerifier
    publisher: Publisher
    generations: Generations
    commands: Commands
    uploads: UploadSagas
    resume: Resume
    upkeep: Upkeep
    outbox: Outbox


@asynccontextmanager
async def open_context(settings: Settings, runtime: Runtime) -> AsyncIterator[Context]:
    """Needs nothing to be there: PostgreSQL and Redis may come later."""
    clock = runtime.clock
    async with AsyncExitStack() as stack:
        breakers = Breakers(runtime.registry)
        database = await stack.enter_async_context(open_database(settings, runtime, breakers))
        redis = await stack.enter_async_context(open_redis(settings, runtime, breakers))

        sealer = Sealer(decode_key(settings.key_encryption_key))
        hasher = SecretHasher(decode_key(settings.secret_hash_key))
        auditor = Auditor(database, sealer, clock)
        keyring = Keyring(database, redis, sealer, auditor, _schedule(settings), settings.signing_key_bits, clock)
        runtime.health.add("signing_keys", keyring.check)
        issuer = Issuer(database, hasher, keyring.signer, clock, uuid7, settings.access_token_lifetime_s)

        own_token = OwnToken(issuer, clock)
        peers = await stack.enter_async_context(open_peers(settings, breakers, lambda _session: own_token))
        registry_changed = asyncio.Event()
        generations = Generations(database, auditor, runtime.registry, registry_changed.set)
        publisher = Publisher(database, redis, generations, registry_changed, peers.retain)
        call_timeout_s = settings.element_call_timeout_s
        changes = QueuedChanges(
            database, auditor, runtime.registry, mode_changed=publisher.kick, call_timeout_s=call_timeout_s
        )
        resume = Resume(
            database,
            peers,
            generations,
            changes,
            Keeper(database, auditor, call_timeout_s),
            runtime.registry,
            lease_s=settings.saga_lease_s,
            call_timeout_s=call_timeout_s,
        )
        checkpoints = Checkpoints(database, redis, auditor, clock, settings.audit_checkpoint_every_s)
        heads = Heads(database, redis, auditor, runtime.registry)
        seals = Seals(database, auditor, clock)
        context = Context(
            settings=settings,
            clock=clock,
            schema=Schema(
                (settings.database_owner_url or settings.database_url).get_secret_value(), settings.database_roles_file
            ),
            registry=runtime.registry,
            database=database,
            redis=redis,
            peers=peers,
            auditor=auditor,
            checkpoints=checkpoints,
            heads=heads,
            seals=seals,
            verification=Verification(database, auditor, checkpoints, heads, seals),
            hasher=hasher,
            keyring=keyring,
            issuer=issuer,
            verifier=TokenVerifier(keyring, Audience.ADMIN, clock),
            publisher=publisher,
            generations=generations,
            commands=Commands(database, peers, auditor, call_timeout_s),
            uploads=UploadSagas(database, runtime.clock, settings.saga_lease_s, resume.kick),
            resume=resume,
            upkeep=Upkeep(database, generations, runtime.registry, lease_s=settings.saga_lease_s, resume=resume.kick),
            outbox=Outbox(runtime, database, redis),
        )
        yield context


def _schedule(settings: Settings) -> Schedule:
    return Schedule(
        rotate_every=timedelta(seconds=settings.signing_key_rotate_every_s),
        publish_lead=timedelta(seconds=settings.signing_key_publish_lead_s),
        grace=timedelta(seconds=settings.signing_key_grace_s),
    )

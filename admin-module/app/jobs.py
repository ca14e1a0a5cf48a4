"""Every periodic task of admin, in one list. Each may run in all instances at once: PostgreSQL's locks put them in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from artstore.clock import uuid7
from artstore.contracts.idempotency import KEEP_S
from artstore.contracts.tokens import JWKS_CHANNEL
from artstore.errors import Unavailable
from artstore.redis import listen
from artstore.service import Runtime
from artstore.tasks import Tasks

from .audit.heads import LOOK_EVERY_S
from .core.config import Settings
from .core.context import Context, open_context
from .elements.generations import CHECK_EVERY_S
from .elements.presence import Presence
from .feed import KEEP_CHANGES_S, purge_changes
from .identity.bootstrap import make_first_accounts, read_first_accounts
from .identity.revocations import forget_revocations
from .sagas.keyed import purge_keys

PREPARE_EVERY_S = 30.0
"""A database that was made anew under a running admin gets its schema and first accounts again after this long."""
PREPARE_RETRY_S = 0.5
AWAY_CHECK_EVERY_S = 5.0
COUNT_EVERY_S = 10.0
SWEEP_EVERY_S = 60.0
PURGE_EVERY_S = 60.0

LOOP_PAUSE_S = 0.02
"""Between two rounds of a task that waits for work by itself; changes that come meanwhile share the next round."""


@dataclass(frozen=True, slots=True)
class Job:
    """`every_s` None: the work waits by itself and is begun again when it ends."""

    name: str
    every_s: float | None
    work: Callable[[], Awaitable[object]]


def jobs(context: Context) -> list[Job]:
    """All but `prepare`, for which they wait."""
    settings = context.settings
    presence = Presence(
        context.database, context.clock, settings.element_away_after_s, context.publisher.kick, context.registry
    )
    return [
        Job("signing-keys", settings.signing_key_check_every_s, context.keyring.keep),
        Job("signing-keys-changed", None, partial(_hear_of_keys, context)),
        Job("forget-revocations", PURGE_EVERY_S, partial(_forget_revocations, context)),
        Job("audit-heads", LOOK_EVERY_S, context.heads.look),
        Job("audit-checkpoints", settings.audit_checkpoint_every_s, context.checkpoints.write),
        Job("elements-away", min(AWAY_CHECK_EVERY_S, settings.element_away_after_s / 2), presence.look),
        Job("publish-registry", None, context.publisher.run),
        Job("check-generation", CHECK_EVERY_S, context.generations.check),
        Job("resume-sagas", None, context.resume.run),
        Job("count-sagas", COUNT_EVERY_S, context.upkeep.count),
        Job("sweep-sagas", min(SWEEP_EVERY_S, settings.saga_lease_s), context.upkeep.sweep),
        Job("purge-sagas", PURGE_EVERY_S, partial(_purge_sagas, context)),
        Job("purge-changes", PURGE_EVERY_S, partial(_purge_changes, context)),
        Job("purge-idempotency-keys", PURGE_EVERY_S, partial(_purge_keys, context)),
    ]


@asynccontextmanager
async def open_with_jobs(settings: Settings, runtime: Runtime) -> AsyncIterator[Context]:
    """The context with all its periodic tasks running."""
    async with open_context(settings, runtime) as context:
        start_jobs(context, runtime.tasks)
        yield context


def start_jobs(context: Context, tasks: Tasks) -> None:
    prepared = asyncio.Event()

    async def prepare() -> None:
        await _prepare(context)
        prepared.set()

    tasks.every("prepare", PREPARE_EVERY_S, prepare)
    for job in jobs(context):
        work = _after(prepared, job.work)
        if job.every_s is None:
            tasks.forever(job.name, work, LOOP_PAUSE_S)
        else:
            tasks.every(job.name, job.every_s, work)


async def _prepare(context: Context) -> None:
    """Schema, audit chain, generation, first accounts; again and again until PostgreSQL is there."""
    path = context.settings.bootstrap_accounts_file
    accounts = await asyncio.to_thread(read_first_accounts, path) if path else []
    while True:
        try:
            await context.schema.migrate()
            async with context.database.begin() as conn:
                await context.auditor.load(conn)
            await context.generations.check()
            await make_first_accounts(
                context.database, context.auditor, accounts, context.hasher, context.clock.now(), uuid7
            )
            return
        except Unavailable:
            await asyncio.sleep(PREPARE_RETRY_S)


async def _hear_of_keys(context: Context) -> None:
    keyring = context.keyring
    await listen(context.redis, {JWKS_CHANNEL: keyring.heard}, subscribed=keyring.refresh)


async def _forget_revocations(context: Context) -> None:
    async with context.database.begin() as conn:
        await forget_revocations(conn, context.clock.now())


async def _purge_sagas(context: Context) -> None:
    await context.upkeep.purge(context.clock.now())


async def _purge_changes(context: Context) -> None:
    await purge_changes(context.database, KEEP_CHANGES_S, context.clock.now())


async def _purge_keys(context: Context) -> None:
    await purge_keys(context.database, KEEP_S, context.clock.now())


def _after(prepared: asyncio.Event, work: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
    async def wait_and_work() -> None:
        await prepared.wait()
        await work()

    return wait_and_work

"""Every periodic task of admin. All instances run all tasks; PostgreSQL's locks serialise them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from prometheus_client import Gauge

from artstore.catalog.search_index import measure_lag_s, update_index
from artstore.clock import uuid7
from artstore.contracts.idempotency import KEEP_S
from artstore.contracts.tokens import JWKS_CHANNEL
from artstore.errors import StartRefused, Unavailable
from artstore.redis import listen
from artstore.runtime import Runtime

from .audit import truncation, verify
from .backups import BackupAge
from .core.config import Settings
from .core.context import Context, open_context
from .elements import generations
from .elements.liveness import Liveness
from .identity.bootstrap import make_first_accounts, read_first_accounts
from .identity.reencrypt import reencrypt_keys
from .identity.revocations import forget_revocations
from .purge import KEEP_CHANGES_S, purge_changes
from .sagas.idempotency import purge_keys

PREPARE_EVERY_S = 30.0
"""A database that is replaced under a running admin gets its schema and first accounts within this time."""
PREPARE_RETRY_S = 0.5
KEYS_CHECK_EVERY_S = 10.0
AWAY_CHECK_EVERY_S = 5.0
COUNT_EVERY_S = 10.0
UNDO_ORPHANS_EVERY_S = 60.0
PURGE_EVERY_S = 60.0
INDEX_EVERY_S = 1.0
"""A search by `q` finds a file within about this time after its upload, while fewer than some thousand files a second are
written. A longer time costs each upload less CPU, because more of them share a batch."""

LOOP_PAUSE_S = 0.02
"""Pause between two rounds of a task that waits for work itself; changes in between share the next round."""


@dataclass(frozen=True, slots=True)
class Job:
    """`every_s` None: the work waits for its own events and is started again when it ends."""

    name: str
    every_s: float | None
    work: Callable[[], Awaitable[object]]


def jobs(context: Context) -> list[Job]:
    """All periodic tasks that wait for `prepare`."""
    settings = context.settings
    liveness = Liveness(
        context.database, context.clock, settings.element_away_after_s, context.publisher.wake, context.registry
    )
    lag = Gauge(
        "search_index_lag_seconds", "Age of the oldest change that the index of words lacks", registry=context.registry
    )
    return [
        Job("signing-keys", min(KEYS_CHECK_EVERY_S, settings.signing_key_rotate_every_s / 8), context.keyring.keep),
        Job("signing-keys-changed", None, partial(_follow_key_changes, context)),
        Job("forget-revocations", PURGE_EVERY_S, partial(_forget_revocations, context)),
        Job("audit-heads", truncation.CHECK_EVERY_S, context.truncation.check),
        Job("audit-checkpoints", settings.audit_checkpoint_every_s, context.checkpoints.write),
        Job(
            "verify-audit",
            min(verify.DUE_CHECK_EVERY_S, settings.audit_verify_every_s),
            context.periodic_verification.run_if_due,
        ),
        Job("elements-away", min(AWAY_CHECK_EVERY_S, settings.element_away_after_s / 2), liveness.check),
        Job("publish-registry", None, context.publisher.run),
        Job("check-generation", generations.CHECK_EVERY_S, context.generations.check),
        Job("resume-sagas", None, context.saga_worker.run),
        Job("count-sagas", COUNT_EVERY_S, context.maintenance.update_metrics),
        Job("sweep-sagas", min(UNDO_ORPHANS_EVERY_S, settings.saga_lease_s), context.maintenance.undo_orphans),
        Job("index-files", INDEX_EVERY_S, partial(update_index, context.database)),
        Job("measure-index", COUNT_EVERY_S, partial(_measure_index, context, lag)),
        Job("measure-backups", COUNT_EVERY_S, BackupAge(context.database, context.registry).measure),
        Job("purge-sagas", PURGE_EVERY_S, partial(_purge_sagas, context)),
        Job("purge-changes", PURGE_EVERY_S, partial(_purge_changes, context)),
        Job("purge-idempotency-keys", PURGE_EVERY_S, partial(_purge_keys, context)),
    ]


@asynccontextmanager
async def open_with_jobs(settings: Settings, runtime: Runtime) -> AsyncIterator[Context]:
    """The context with all its periodic tasks running."""
    async with open_context(settings, runtime) as context:
        start_jobs(context, runtime)
        yield context


def start_jobs(context: Context, runtime: Runtime) -> None:
    prepared, tasks = asyncio.Event(), runtime.tasks

    async def prepare() -> None:
        try:
            await _prepare(context)
        except StartRefused as error:
            # An admin that runs already goes on beside the later version that migrates (a rolling upgrade).
            if prepared.is_set():
                raise
            runtime.refuse(error)
            return
        prepared.set()

    tasks.every("prepare", PREPARE_EVERY_S, prepare)
    for job in jobs(context):
        work = _after(prepared, job.work)
        if job.every_s is None:
            tasks.forever(job.name, work, LOOP_PAUSE_S)
        else:
            tasks.every(job.name, job.every_s, work)


async def _prepare(context: Context) -> None:
    """Schema, audit chain, generation, first accounts. Retried until PostgreSQL is available."""
    path = context.settings.bootstrap_accounts_file
    accounts = await asyncio.to_thread(read_first_accounts, path) if path else []
    while True:
        try:
            await context.schema.migrate()
            async with context.database.begin() as conn:
                await context.auditor.load(conn)
            if context.settings.key_encryption_key_previous is not None:
                async with context.database.begin() as conn:
                    await reencrypt_keys(conn, context.cipher, context.auditor)
            await context.generations.check()
            await make_first_accounts(
                context.database, context.auditor, accounts, context.hasher, context.clock.now(), uuid7
            )
            return
        except Unavailable:
            await asyncio.sleep(PREPARE_RETRY_S)


async def _follow_key_changes(context: Context) -> None:
    keyring = context.keyring
    await listen(context.redis, {JWKS_CHANNEL: keyring.on_keys_changed}, subscribed=keyring.refresh)


async def _forget_revocations(context: Context) -> None:
    async with context.database.begin() as conn:
        await forget_revocations(conn, context.clock.now())


async def _measure_index(context: Context, lag: Gauge) -> None:
    lag.set(await measure_lag_s(context.database))


async def _purge_sagas(context: Context) -> None:
    await context.maintenance.purge(context.clock.now())


async def _purge_changes(context: Context) -> None:
    await purge_changes(context.database, KEEP_CHANGES_S, context.clock.now())


async def _purge_keys(context: Context) -> None:
    await purge_keys(context.database, KEEP_S, context.clock.now())


def _after(prepared: asyncio.Event, work: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
    async def wait_and_work() -> None:
        await prepared.wait()
        await work()

    return wait_and_work

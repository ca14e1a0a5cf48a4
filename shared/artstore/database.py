"""PostgreSQL: one pool per process, transactions that say clearly when the database is away or refuses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import sqlalchemy.exc
from prometheus_client import Gauge
from sqlalchemy import Engine, QueuePool, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from artstore.clock_check import ClockCheck
from artstore.config import DatabaseSettings
from artstore.database_errors import (
    AWAY_FIELD,
    READ_ONLY,
    DatabaseAway,
    DatabaseBusy,
    DatabaseRefuses,
    outage_of,
    sqlstate_of,
)
from artstore.database_hosts import HostConnector, for_sqlalchemy
from artstore.logs import get_logger
from artstore.peers.breaker import Breaker, Breakers
from artstore.runtime import Runtime

log = get_logger("artstore.database")

SCHEMA_REVISION = "0009"
"""The migration this code needs at least; revisions are numbers of four digits."""
EDGE = "postgresql"
PING_AFTER_IDLE_S = 1.0
"""A pooled connection unused for this long is pinged before it is used."""
CHECK_TIMEOUT_S = 1.5
REFUSAL_HOLDS_S = 5.0
"""How long a refused write keeps the service not ready: whether a full disk has room again shows only at the next write."""
RENEW_EVERY_S = 1.0
"""The pool is replaced at most this often."""


LOOSELY = "(SELECT set_config('synchronous_commit', 'off', true) AS level) AS loosely"
"""A row source that makes the commit of its statement not wait for the disk; the statement must name `loosely.level`."""

_CHECK = text("SELECT current_setting('transaction_read_only') = 'on', to_regclass('alembic_version') IS NOT NULL")
_REVISION = text("SELECT version_num FROM alembic_version")


class Database:
    """The pool. `begin` and `alone` are the only ways to a connection."""

    def __init__(self, engine: AsyncEngine, breaker: Breaker) -> None:
        self.engine, self._breaker = engine, breaker
        self._alone = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._pool = _Freshness(engine.sync_engine)
        self._refusal: DatabaseRefuses | None = None
        self._refused_until_s = float("-inf")

    @property
    def refuses_writes(self) -> bool:
        """PostgreSQL answers reads and refused a write a moment ago, so its rows may be behind the disks."""
        return self._refusal is not None

    @asynccontextmanager
    async def begin(
        self, *, durable: bool = True, patience_s: float | None = None, may_be_slow: bool = False
    ) -> AsyncIterator[AsyncConnection]:
        """One transaction, committed at the end of the block. Raises DatabaseAway, DatabaseRefuses, DatabaseBusy.

        `durable=False` lets the commit return before it is on disk (synchronous_commit off): a crash of PostgreSQL may
        lose it, never half of it. For what is repaired anyway. `patience_s` is for the block as a whole, for who has
        another way to an answer; giving a connection up that does not answer may take two seconds more. `may_be_slow` is
        for statements that a user composed: a timeout then raises DatabaseBusy and does not count against PostgreSQL.
        """
        async with self._guarded(patience_s, may_be_slow), self.engine.begin() as connection:
            if not durable:
                await connection.execute(text("SET LOCAL synchronous_commit = off"))
            yield connection

    @asynccontextmanager
    async def alone(self, *, patience_s: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Each statement is a transaction of its own and takes one round trip, not three. Raises as `begin`.

        `patience_s` as for `begin`.
        """
        async with self._guarded(patience_s), self._alone.connect() as connection:
            yield connection

    @asynccontextmanager
    async def _guarded(self, patience_s: float | None = None, may_be_slow: bool = False) -> AsyncIterator[None]:
        async with self._breaker.guard():
            try:
                async with asyncio.timeout(patience_s):
                    yield
            except Exception as error:
                outage = outage_of(error)
                if outage is None:
                    raise
                if may_be_slow and isinstance(error, TimeoutError):
                    outage = DatabaseBusy("the statement takes too long")
                elif isinstance(outage, DatabaseRefuses):
                    self._note_refusal(outage, error)
                raise outage from error

    def _note_refusal(self, refusal: DatabaseRefuses, error: Exception) -> None:
        if self._refusal is None or self._refusal.detail != refusal.detail:
            log.warning("PostgreSQL refuses writes", reason=refusal.detail, error=str(error).splitlines()[0][:200])
        self._refusal = refusal
        if sqlstate_of(error) == READ_ONLY:  # the check sees by itself how long it lasts
            self._pool.renew()  # another host, or another server behind the name, may take writes by now
        else:
            self._refused_until_s = time.monotonic() + REFUSAL_HOLDS_S

    async def check(self) -> None:
        """Raises when PostgreSQL is away, takes no writes or lacks the schema.

        Past the breaker, so that it sees a return at once; and it moves the breaker, so that nobody waits for a server
        that only the check has asked.
        """
        try:
            read_only, revision = await self._inspect()
        except Exception as error:
            outage = outage_of(error)
            if outage is None:
                raise
            if isinstance(outage, DatabaseAway):
                self._breaker.count(outage)
                self._pool.renew()
            raise outage from error
        # PostgreSQL is back, with the schema or without: whoever is to make it must get through.
        self._breaker.heal()
        if read_only:
            self._pool.renew()
            self._refusal = DatabaseRefuses("PostgreSQL is read-only", away=AWAY_FIELD)
            raise self._refusal
        if self._refusal is not None and time.monotonic() < self._refused_until_s:
            raise self._refusal
        if self._refusal is not None:
            log.info("PostgreSQL is asked for writes again", refused=self._refusal.detail)
            self._refusal = None
        if revision is None:
            raise ConnectionError("the schema is not there yet")
        if revision < SCHEMA_REVISION:
            raise ConnectionError(f"the schema is at {revision}, {SCHEMA_REVISION} is needed")

    async def _inspect(self) -> tuple[bool, str | None]:
        """Whether a transaction would be read-only, and the schema's revision."""
        async with asyncio.timeout(CHECK_TIMEOUT_S), self._alone.connect() as connection:
            read_only, has_schema = (await connection.execute(_CHECK)).one()
            return bool(read_only), await connection.scalar(_REVISION) if has_schema else None


class _Freshness:
    """Which pooled connections may still be used: those opened since the last `renew`, pinged when they lay idle.

    A ping with asyncpg is three round trips, so a connection that was in use a moment ago is not pinged.
    """

    def __init__(self, engine: Engine) -> None:
        self._renewed_s = float("-inf")
        self._errors = (engine.dialect.loaded_dbapi.Error, OSError)
        event.listen(engine, "connect", self._note_opened)
        event.listen(engine, "checkin", self._note_used)
        event.listen(engine, "checkout", self._require_fresh)

    def renew(self) -> None:
        """Connections opened before now are closed when they are next taken."""
        now_s = time.monotonic()
        if now_s - self._renewed_s >= RENEW_EVERY_S:
            self._renewed_s = now_s

    def _note_opened(self, _connection: object, record: ConnectionPoolEntry) -> None:
        record.info["opened_s"] = time.monotonic()

    def _note_used(self, _connection: object, record: ConnectionPoolEntry) -> None:
        record.info["used_s"] = time.monotonic()

    def _require_fresh(self, connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
        if record.info.get("opened_s", 0.0) < self._renewed_s:
            raise sqlalchemy.exc.InvalidatePoolError("the connection is older than the outage")
        used_s = record.info.get("used_s")  # none: it was opened just now
        if used_s is None or time.monotonic() - used_s < PING_AFTER_IDLE_S:
            return
        try:
            connection.ping()
        except self._errors as error:
            raise sqlalchemy.exc.InvalidatePoolError("the connection was lost") from error


@asynccontextmanager
async def open_database(
    settings: DatabaseSettings, runtime: Runtime, breakers: Breakers, *, required: bool = True
) -> AsyncIterator[Database]:
    """Does not connect: the first transaction does. Adds the health checks `database` and `clock`; audit events are shipped
    there."""
    engine = create_async_engine(
        for_sqlalchemy(settings.database_url.get_secret_value()),
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_max_overflow,
        pool_recycle=settings.database_pool_recycle_s,
        pool_timeout=settings.database_command_timeout_s,
        connect_args={
            "async_creator_fn": HostConnector(),
            "timeout": settings.database_connect_timeout_s,
            "command_timeout": settings.database_command_timeout_s,
            "server_settings": {"application_name": "artstore", "timezone": "UTC"},
        },
    )
    Gauge("database_connections_active", "Connections taken from the pool", registry=runtime.registry).set_function(
        partial(_taken, engine)
    )
    breaker = breakers.to(EDGE, (DatabaseAway,), silent=(DatabaseBusy,), named=AWAY_FIELD)
    database = Database(engine, breaker)
    runtime.health.add("database", database.check, required=required)
    ClockCheck(runtime, database.alone)
    runtime.audit.ship_to(database)
    try:
        yield database
    finally:
        await engine.dispose()


def _taken(engine: AsyncEngine) -> float:
    return cast(QueuePool, engine.sync_engine.pool).checkedout()

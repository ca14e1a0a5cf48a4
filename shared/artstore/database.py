"""PostgreSQL: one pool per process, transactions that say clearly when the database is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import asyncpg
import sqlalchemy.exc
from prometheus_client import Gauge
from sqlalchemy import Engine, QueuePool, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from artstore.breaker import Breaker, Breakers
from artstore.clock_check import ClockCheck
from artstore.config import DatabaseSettings
from artstore.errors import Unavailable
from artstore.service import Runtime

SCHEMA_REVISION = "0006"
"""The migration this code needs at least; revisions are numbers of four digits."""
EDGE = "postgresql"
PING_AFTER_IDLE_S = 1.0
"""A pooled connection unused for this long is pinged before it is used."""


LOOSELY = "(SELECT set_config('synchronous_commit', 'off', true) AS level) AS loosely"
"""A row source that makes the commit of its statement not wait for the disk; the statement must name `loosely.level`."""


class DatabaseAway(Unavailable):
    """PostgreSQL did not answer: no connection, a lost one, a timeout."""


class Database:
    """The pool. `begin` and `alone` are the only ways to a connection."""

    def __init__(self, engine: AsyncEngine, breaker: Breaker) -> None:
        self.engine, self._breaker = engine, breaker
        self._alone = engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def begin(self, *, durable: bool = True, patience_s: float | None = None) -> AsyncIterator[AsyncConnection]:
        """One transaction, committed at the end of the block. Raises DatabaseAway.

        `durable=False` lets the commit return before it is on disk (synchronous_commit off): a crash of PostgreSQL may
        lose it, never half of it. For what is repaired anyway. `patience_s` is for the block as a whole, for who has
        another way to an answer; giving a connection up that does not answer may take two seconds more.
        """
        async with self._guarded(patience_s), self.engine.begin() as connection:
            if not durable:
                await connection.execute(text("SET LOCAL synchronous_commit = off"))
            yield connection

    @asynccontextmanager
    async def alone(self, *, patience_s: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Each statement is a transaction of its own and takes one round trip, not three. Raises DatabaseAway.

        `patience_s` as for `begin`.
        """
        async with self._guarded(patience_s), self._alone.connect() as connection:
            yield connection

    @asynccontextmanager
    async def _guarded(self, patience_s: float | None = None) -> AsyncIterator[None]:
        async with self._breaker.guard():
            try:
                async with asyncio.timeout(patience_s):
                    yield
            except Exception as error:
                if is_away(error):
                    raise DatabaseAway("PostgreSQL is away", away=EDGE) from error
                raise

    async def check(self) -> None:
        """Raises when PostgreSQL is away or lacks the schema. Past the breaker, so that it sees a return at once."""
        async with self.engine.connect() as connection:
            revision = None
            if await connection.scalar(text("SELECT to_regclass('alembic_version')")) is not None:
                revision = await connection.scalar(text("SELECT version_num FROM alembic_version"))
        # PostgreSQL is back, with the schema or without: whoever is to make it must get through.
        self._breaker.heal()
        if revision is None:
            raise ConnectionError("the schema is not there yet")
        if revision < SCHEMA_REVISION:
            raise ConnectionError(f"the schema is at {revision}, {SCHEMA_REVISION} is needed")


_AWAY = (
    OSError,  # refused, reset, and TimeoutError of a command
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,  # it starts, recovers or stops
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InvalidAuthorizationSpecificationError,  # the login is refused; its role comes with admin's migrations
    asyncpg.InterfaceError,
)


def is_away(error: BaseException) -> bool:
    """Whether the error says that PostgreSQL is not there, rather than that it refused the statement.

    Where a connection is made asyncpg's errors come as they are or wrapped by SQLAlchemy, which knows few of them.
    """
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        cause = error.orig.__cause__ if error.orig else None
        # a table that is not there: PostgreSQL is, but without the schema, and that comes with admin
        return bool(error.connection_invalidated) or isinstance(cause, (*_AWAY, asyncpg.UndefinedTableError))
    return isinstance(error, (*_AWAY, sqlalchemy.exc.TimeoutError))  # the last: no connection came free in the pool


@asynccontextmanager
async def open_database(
    settings: DatabaseSettings, runtime: Runtime, breakers: Breakers, *, required: bool = True
) -> AsyncIterator[Database]:
    """Does not connect: the first transaction does. Adds the health checks `database` and `clock`; audit events are shipped
    there."""
    engine = create_async_engine(
        settings.database_url.get_secret_value(),
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_max_overflow,
        pool_recycle=settings.database_pool_recycle_s,
        pool_timeout=settings.database_command_timeout_s,
        connect_args={
            "timeout": settings.database_connect_timeout_s,
            "command_timeout": settings.database_command_timeout_s,
            "server_settings": {"application_name": "artstore", "timezone": "UTC"},
        },
    )
    _ping_after_idle(engine.sync_engine)
    Gauge("database_connections_active", "Connections taken from the pool", registry=runtime.registry).set_function(
        partial(_taken, engine)
    )
    database = Database(engine, breakers.to(EDGE, (DatabaseAway,)))
    runtime.health.add("database", database.check, required=required)
    ClockCheck(runtime, database)
    runtime.audit.ship_to(database)
    try:
        yield database
    finally:
        await engine.dispose()


def _ping_after_idle(engine: Engine) -> None:
    """Pre-ping, but not of a connection that was in use a moment ago: with asyncpg a ping is three round trips."""

    def note_use(_connection: object, record: ConnectionPoolEntry) -> None:
        record.info["used_s"] = time.monotonic()

    def ping(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
        used_s = record.info.get("used_s")  # none: it was opened just now
        if used_s is None or time.monotonic() - used_s < PING_AFTER_IDLE_S:
            return
        try:
            connection.ping()
        except (engine.dialect.loaded_dbapi.Error, OSError) as error:
            raise sqlalchemy.exc.InvalidatePoolError("the connection was lost") from error

    event.listen(engine, "checkin", note_use)
    event.listen(engine, "checkout", ping)


def _taken(engine: AsyncEngine) -> float:
    return cast(QueuePool, engine.sync_engine.pool).checkedout()

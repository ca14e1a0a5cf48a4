"""PostgreSQL: one pool per process, and transactions that report an outage as one of three errors
(database_errors.py)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg
import sqlalchemy.exc
from prometheus_client import Gauge
from sqlalchemy import Engine, PoolProxiedConnection, QueuePool, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import greenlet_spawn

from artstore.clock_check import ClockCheck
from artstore.config import DatabaseSettings
from artstore.database_errors import (
    READ_ONLY,
    DatabaseBusy,
    DatabaseRefusesWrites,
    DatabaseUnavailable,
    outage_of,
    sqlstate_of,
)
from artstore.database_hosts import HostConnector, for_sqlalchemy, has_several_hosts
from artstore.errors import DATABASE
from artstore.logs import get_logger
from artstore.peers.breaker import Breaker, Breakers
from artstore.runtime import Runtime
from artstore.tracing import call_span

log = get_logger("artstore.database")

SCHEMA_REVISION = "0016"
"""The oldest migration that this code works with; revisions are numbers of four digits."""
EDGE = "postgresql"
RECYCLE_S = 3600
"""A pooled connection is replaced at this age, so that its server process returns the memory of its caches."""
PING_AFTER_IDLE_S = 10.0
"""A pooled connection that was idle for this long is pinged before it is used. One that the server has closed is
noticed without a ping, and the health check notices within seconds that PostgreSQL does not answer."""
HELD_S = 5.0
"""`fetch` takes a connection out of the pool once in this time: that and its return cost as much as a statement. Less than
PING_AFTER_IDLE_S, because the connection is not pinged meanwhile, and longer than the pauses of the periodic tasks."""
CHECK_TIMEOUT_S = 1.5
REFUSAL_HOLDS_S = 5.0
"""How long a refused write keeps the service not ready, because only the next write shows whether a full disk
has space again."""
RENEW_EVERY_S = 1.0
"""The pool is replaced at most this often."""
TRANSACTION_S = 30
"""PostgreSQL ends a transaction that lasts longer, or longer than three statements may take. A process that is frozen, or whose
host is lost, would else keep its locks, and all other processes would wait for them. `idle_in_transaction_session_timeout` is
not enough: between the parts of one statement asyncpg's session counts as active."""


ASYNC_COMMIT = "(SELECT set_config('synchronous_commit', 'off', true) AS level) AS async_commit"
"""A FROM item that turns synchronous_commit off for the statement's transaction; the statement must use
`async_commit.level`."""

_CHECK = """SELECT current_setting('transaction_read_only') = 'on' AS read_only,
    (SELECT version_num FROM alembic_version) AS revision"""
_CHECK_WITHOUT_SCHEMA = "SELECT current_setting('transaction_read_only') = 'on' AS read_only, NULL AS revision"


class Database:
    """The connection pool. `begin` and `autocommit` are the only ways to get a connection; `fetch` needs none.

    `fetch` keeps a connection while the pool has fewer than `max_connections` in use.
    """

    def __init__(self, engine: AsyncEngine, breaker: Breaker, max_connections: int = 0) -> None:
        self.engine, self._breaker = engine, breaker
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._pool = _PoolChecks(engine.sync_engine)
        self._max_connections = max_connections
        self._held: PoolProxiedConnection | None = None
        """The connection of the last `fetch`, kept out of the pool unless the pool needs it."""
        self._refusal: DatabaseRefusesWrites | None = None
        self._refused_until_s = float("-inf")

    @property
    def refuses_writes(self) -> bool:
        """True if PostgreSQL answers reads but has recently refused a write, so its rows may be older than
        the files on disk."""
        return self._refusal is not None

    @asynccontextmanager
    async def begin(
        self, *, durable: bool = True, timeout_s: float | None = None, may_be_slow: bool = False
    ) -> AsyncIterator[AsyncConnection]:
        """One transaction, committed at the end of the block. Raises DatabaseUnavailable,
        DatabaseRefusesWrites, DatabaseBusy.

        `durable=False` lets the commit return before it is on disk (synchronous_commit off): a crash of
        PostgreSQL may lose the whole transaction, so use it only for writes that are repaired anyway.
        `timeout_s` bounds the whole block; closing a connection that does not answer may take two seconds
        more. `may_be_slow` is for statements that a user composed: a timeout raises DatabaseBusy and does not
        count against PostgreSQL.
        """
        async with self._guarded(timeout_s, may_be_slow), self.engine.begin() as connection:
            if not durable:
                await connection.execute(text("SET LOCAL synchronous_commit = off"))
            yield connection

    @asynccontextmanager
    async def autocommit(self, *, timeout_s: float | None = None) -> AsyncIterator[AsyncConnection]:
        """A connection on which each statement is its own transaction and takes one round trip instead of
        three. `timeout_s` and the errors are those of `begin`."""
        async with self._guarded(timeout_s), self._autocommit.connect() as connection:
            yield connection

    async def fetch(self, statement: str, *values: Any, timeout_s: float | None = None) -> list[asyncpg.Record]:
        """One statement, which is its own transaction, prepared once per connection and sent in one round trip by
        asyncpg itself: SQLAlchemy would take several times as long in Python.

        Its parameters are $1, $2 …; JSON is passed as text. `timeout_s` and the outages are those of `begin`; other
        errors are asyncpg's.
        """
        async with self._guarded(timeout_s, statement=statement):
            return await self._fetch(statement, *values)

    async def _fetch(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        pooled = await self._take_connection()
        driver = cast(asyncpg.Connection, pooled.driver_connection)
        try:
            rows: list[asyncpg.Record] = await driver.fetch(statement, *values)
        except BaseException as error:
            # Only an answer of the server shows that the connection is at the end of a statement.
            answered = isinstance(error, asyncpg.PostgresError) and not driver.is_closed()
            await greenlet_spawn(pooled.close if answered else pooled.invalidate)
            raise
        if self._held is None and not self._is_exhausted:
            self._held = pooled
        else:
            await greenlet_spawn(pooled.close)
        return rows

    async def _take_connection(self) -> PoolProxiedConnection:
        if self._held is not None and self._pool.may_reuse(self._held):
            held, self._held = self._held, None
            return held
        await self._give_back()
        pooled = await self.engine.raw_connection()
        self._pool.note_taken(pooled)
        return pooled

    async def _give_back(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            await greenlet_spawn(held.close)

    @property
    def _is_exhausted(self) -> bool:
        return cast(QueuePool, self.engine.sync_engine.pool).checkedout() >= self._max_connections

    @property
    def connections_in_use(self) -> int:
        return cast(QueuePool, self.engine.sync_engine.pool).checkedout() - (self._held is not None)

    def leave_server(self) -> None:
        """Another host has been promoted: every open connection is replaced at its next use."""
        log.warning("another host of DATABASE_URL is the primary now")
        self._pool.renew_now()

    async def close(self) -> None:
        await self._give_back()
        await self.engine.dispose()

    @asynccontextmanager
    async def _guarded(
        self, timeout_s: float | None = None, may_be_slow: bool = False, statement: str = "transaction"
    ) -> AsyncIterator[None]:
        attributes = {"db.system.name": EDGE, "db.query.text": statement}
        with call_span(EDGE, attributes):
            async with self._breaker.guard():
                try:
                    async with asyncio.timeout(timeout_s):
                        if self._held is not None and self._is_exhausted:
                            await self._give_back()
                        yield
                except Exception as error:
                    outage = outage_of(error)
                    if outage is None:
                        raise
                    if may_be_slow and isinstance(error, TimeoutError):
                        outage = DatabaseBusy("the statement took too long")
                    elif isinstance(outage, DatabaseRefusesWrites):
                        self._note_refusal(outage, error)
                    raise outage from error

    def _note_refusal(self, refusal: DatabaseRefusesWrites, error: Exception) -> None:
        if self._refusal is None or self._refusal.detail != refusal.detail:
            log.warning("PostgreSQL refuses writes", reason=refusal.detail, error=str(error).splitlines()[0][:200])
        self._refusal = refusal
        if sqlstate_of(error) == READ_ONLY:  # the health check notices when this ends
            self._pool.renew()  # another host, or another server behind the name, may accept writes now
        else:
            self._refused_until_s = time.monotonic() + REFUSAL_HOLDS_S

    async def check(self) -> None:
        """The health check: raises if PostgreSQL is unavailable, refuses writes or lacks the schema.

        It bypasses the breaker, so that it notices a recovery immediately, and opens and closes the breaker
        with what it finds.
        """
        try:
            read_only, revision = await self._inspect()
        except Exception as error:
            outage = outage_of(error)
            if outage is None:
                raise
            if isinstance(outage, DatabaseUnavailable):
                self._breaker.count(outage)
                self._pool.renew()
            raise outage from error
        # PostgreSQL answers. Close the breaker even without a schema, so that migrations can create it.
        self._breaker.heal()
        if read_only:
            self._pool.renew()
            self._refusal = DatabaseRefusesWrites("PostgreSQL is read-only", away=DATABASE)
            raise self._refusal
        if self._refusal is not None and time.monotonic() < self._refused_until_s:
            raise self._refusal
        if self._refusal is not None:
            log.info("PostgreSQL writes are tried again", refused=self._refusal.detail)
            self._refusal = None
        if revision is None:
            raise ConnectionError("the schema does not exist yet")
        if revision < SCHEMA_REVISION:
            raise ConnectionError(f"the schema is at revision {revision}, but {SCHEMA_REVISION} is required")

    async def _inspect(self) -> tuple[bool, str | None]:
        """True if transactions are read-only, and the schema's revision."""
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            try:
                (row,) = await self._fetch(_CHECK)
            except asyncpg.UndefinedTableError:
                (row,) = await self._fetch(_CHECK_WITHOUT_SCHEMA)
            return row["read_only"], row["revision"]


class _PoolChecks:
    """Checks pooled connections before their use: closes those opened before the last `renew`, and pings idle
    ones.

    A ping with asyncpg takes three round trips, so a connection that was used recently is not pinged.
    """

    def __init__(self, engine: Engine) -> None:
        self._renewed_s = float("-inf")
        self._errors = (engine.dialect.loaded_dbapi.Error, OSError)
        event.listen(engine, "connect", self._note_opened)
        event.listen(engine, "checkin", self._note_used)
        event.listen(engine, "checkout", self._require_fresh)

    def renew(self) -> None:
        """Marks all open connections for replacement at their next use, unless it was just done."""
        if time.monotonic() - self._renewed_s >= RENEW_EVERY_S:
            self.renew_now()

    def renew_now(self) -> None:
        self._renewed_s = time.monotonic()

    def note_taken(self, pooled: PoolProxiedConnection) -> None:
        """It was checked now."""
        pooled.info["taken_s"] = time.monotonic()

    def may_reuse(self, pooled: PoolProxiedConnection) -> bool:
        """True for a connection that was taken out of the pool a moment ago and would pass its checks again."""
        taken_s, opened_s = pooled.info["taken_s"], pooled.info.get("opened_s", 0.0)
        lost = cast(asyncpg.Connection, pooled.driver_connection).is_closed()
        return not lost and opened_s >= self._renewed_s and time.monotonic() - taken_s < HELD_S

    def _note_opened(self, _connection: object, record: ConnectionPoolEntry) -> None:
        record.info["opened_s"] = time.monotonic()

    def _note_used(self, _connection: object, record: ConnectionPoolEntry) -> None:
        record.info["used_s"] = time.monotonic()

    def _require_fresh(self, connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
        if record.info.get("opened_s", 0.0) < self._renewed_s:
            raise sqlalchemy.exc.InvalidatePoolError("the connection is older than the outage")
        if connection.driver_connection.is_closed():
            raise sqlalchemy.exc.InvalidatePoolError("the connection was lost")
        used_s = record.info.get("used_s")  # None for a new connection
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
    """Opens the pool without connecting. Adds the health checks `database` and `clock`, and lets the audit
    writer ship its events."""
    connector = HostConnector()
    engine = create_async_engine(
        for_sqlalchemy(settings.database_url.get_secret_value()),
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_max_overflow,
        pool_recycle=RECYCLE_S,
        pool_timeout=settings.database_command_timeout_s,
        pool_use_lifo=True,  # the connection used last is prepared, warm at the server, and needs no ping
        connect_args={
            "async_creator_fn": connector,
            "timeout": settings.database_connect_timeout_s,
            "command_timeout": settings.database_command_timeout_s,
            "server_settings": {
                "application_name": "artstore",
                "timezone": "UTC",
                "transaction_timeout": f"{max(TRANSACTION_S, 3 * settings.database_command_timeout_s):.3f}s",
            },
        },
    )
    breaker = breakers.to(EDGE, (DatabaseUnavailable,), silent=(DatabaseBusy,), named=DATABASE)
    database = Database(engine, breaker, settings.database_pool_size + settings.database_max_overflow)
    Gauge("database_connections_active", "Connections of the pool in use", registry=runtime.registry).set_function(
        lambda: database.connections_in_use
    )
    connector.on_promoted = database.leave_server
    if has_several_hosts(settings.database_url.get_secret_value()):
        runtime.tasks.forever("database-hosts", connector.watch, pause_s=0.0)
    runtime.health.add(DATABASE, database.check, required=required)
    ClockCheck(runtime, database.autocommit)
    runtime.audit.ship_to(database)
    try:
        yield database
    finally:
        await database.close()

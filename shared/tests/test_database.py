"""Errors of a real PostgreSQL are distinguished: it is away, it refuses writes, or it gave up a statement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import sqlalchemy.exc
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.connectors.asyncio import AsyncAdapt_Error

from artstore import database as database_module
from artstore.config import DatabaseSettings
from artstore.database import SCHEMA_REVISION, Database, open_database
from artstore.database_errors import DatabaseBusy, DatabaseRefusesWrites, DatabaseUnavailable, outage_of
from artstore.database_hosts import for_sqlalchemy
from artstore.peers.breaker import Breakers
from artstore.runtime import Runtime
from artstore.testing.services import PostgresServer, free_port, start_postgres, temporary_folder

DEADLINE_S = 30

AWAY: list[BaseException] = [
    ConnectionRefusedError(),
    ConnectionResetError(),
    TimeoutError(),
    asyncpg.ConnectionDoesNotExistError("gone"),
    asyncpg.CannotConnectNowError("the database system is not yet accepting connections"),
    asyncpg.AdminShutdownError("terminating connection due to administrator command"),
    asyncpg.CrashShutdownError("terminating connection because of crash of another server process"),
    asyncpg.TooManyConnectionsError("sorry, too many clients already"),
    asyncpg.InvalidPasswordError("password authentication failed"),
    asyncpg.InvalidAuthorizationSpecificationError("pg_hba.conf rejects connection"),
    asyncpg.InvalidCatalogNameError("database does not exist"),
    asyncpg.ObjectNotInPrerequisiteStateError("database is not currently accepting connections"),
    asyncpg.UndefinedTableError("files"),
    asyncpg.TargetServerAttributeNotMatched("none of the hosts match"),
]
REFUSES: list[BaseException] = [
    asyncpg.ReadOnlySQLTransactionError("cannot execute INSERT in a read-only transaction"),
    asyncpg.DiskFullError("could not extend file"),
    asyncpg.OutOfMemoryError("out of memory"),
    asyncpg.ConfigurationLimitExceededError("temporary file size exceeds temp_file_limit"),
    asyncpg.PostgresIOError("could not write"),
    asyncpg.InsufficientPrivilegeError("permission denied for table files"),
]
BUSY: list[BaseException] = [
    asyncpg.QueryCanceledError("canceling statement due to statement timeout"),
    asyncpg.LockNotAvailableError("canceling statement due to lock timeout"),
    asyncpg.DeadlockDetectedError("deadlock detected"),
    asyncpg.SerializationError("could not serialize access"),
    asyncpg.IdleInTransactionSessionTimeoutError("terminating connection due to idle-in-transaction timeout"),
]
THERE: list[BaseException] = [
    asyncpg.UniqueViolationError("duplicate key"),
    asyncpg.NumericValueOutOfRangeError("integer out of range"),
    ValueError("not from PostgreSQL at all"),
]
KINDS = [
    *((error, DatabaseUnavailable) for error in AWAY),
    *((error, DatabaseRefusesWrites) for error in REFUSES),
    *((error, DatabaseBusy) for error in BUSY),
    *((error, type(None)) for error in THERE),
]


def wrapped(error: BaseException) -> sqlalchemy.exc.DBAPIError:
    """As SQLAlchemy raises an error of its driver."""
    of_driver = of_dialect(error)
    return sqlalchemy.exc.DBAPIError("SELECT 1", None, of_driver)


def of_dialect(error: BaseException) -> AsyncAdapt_Error:
    """As SQLAlchemy's pool raises an error of its driver."""
    raised = AsyncAdapt_Error(str(error))
    raised.__cause__ = error
    return raised


@pytest.mark.parametrize(("error", "kind"), KINDS, ids=lambda one: getattr(one, "__name__", type(one).__name__))
def test_an_outage_is_known_by_its_sqlstate(error: BaseException, kind: type) -> None:
    for met in (error, of_dialect(error), wrapped(error)):
        outage = outage_of(met)
        assert type(outage) is kind
        if outage is not None:
            assert outage.fields["away"] == "database"
            assert 0 < (outage.retry_after_s or 0) <= 5


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("postgresql+asyncpg://u:p@one/db", "postgresql+asyncpg://u:p@one/db"),
        (
            "postgresql+asyncpg://u:p@one:1,two/db?target_session_attrs=read-write",
            "postgresql+asyncpg://u:p@/db?host=one:1&host=two:5432&target_session_attrs=read-write",
        ),
        ("postgresql+asyncpg://one:1,two:2/db", "postgresql+asyncpg:///db?host=one:1&host=two:2"),
    ],
)
def test_several_hosts_are_given_as_libpq_takes_them(given: str, read: str) -> None:
    assert for_sqlalchemy(given) == read


@pytest.fixture(scope="module")
def second_postgres() -> Iterator[PostgresServer]:
    with temporary_folder("artstore-second-") as folder:
        server = start_postgres(folder)
        yield server
        server.discard()


@asynccontextmanager
async def opened(runtime: Runtime, url: str, **settings: Any) -> AsyncIterator[Database]:
    given = DatabaseSettings(database_url=SecretStr(url), **settings)
    async with open_database(given, runtime, Breakers(runtime.registry)) as database:
        yield database
        await runtime.tasks.close()


async def make_schema(server: PostgresServer, name: str) -> None:
    await run(server, name, "CREATE TABLE alembic_version (version_num text)", "CREATE TABLE t (n int)")
    await run(server, name, f"INSERT INTO alembic_version VALUES ('{SCHEMA_REVISION}')")


async def run(server: PostgresServer, name: str, *statements: str) -> None:
    connection = await asyncpg.connect(host="127.0.0.1", port=server.port, user="postgres", database=name)
    try:
        await connection.execute("SET default_transaction_read_only = off")
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def until_ok(runtime: Runtime, ok: bool) -> str:
    """The text of the check `database` once its state is `ok`."""
    async with asyncio.timeout(DEADLINE_S):
        while (found := runtime.health.report()["checks"]["database"])["ok"] is not ok or "not checked" in found[
            "detail"
        ]:
            await asyncio.sleep(0.02)
    return str(found["detail"])


async def write(database: Database) -> None:
    async with database.begin() as connection:
        await connection.execute(text("INSERT INTO t VALUES (1)"))


async def sleep(database: Database, limit: str) -> None:
    """A slow statement of a user, under a limit of PostgreSQL's operator."""
    async with database.begin(may_be_slow=True) as connection:
        await connection.execute(text(f"SET LOCAL statement_timeout = '{limit}'"))
        await connection.execute(text("SELECT pg_sleep(10)"))


async def read(database: Database) -> int:
    async with database.autocommit() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM t"))).scalar_one())


async def test_a_fetch_is_a_transaction_of_its_own(runtime: Runtime, postgres: PostgresServer) -> None:
    name = await postgres.new_database()
    await make_schema(postgres, name)
    async with opened(runtime, postgres.url(name), database_pool_size=1, database_max_overflow=0) as database:
        rows = await database.fetch("INSERT INTO t SELECT generate_series(1, $1::int) RETURNING n", 3)
        assert [row["n"] for row in rows] == [1, 2, 3]
        first = await pid(database)
        with pytest.raises(asyncpg.DivisionByZeroError):
            await database.fetch("INSERT INTO t SELECT 1 / (n - 2) FROM t")
        assert await read(database) == 3
        assert await pid(database) == first, "a refused statement costs no connection"


async def test_a_fetch_without_an_answer_gives_its_connection_up(runtime: Runtime, postgres: PostgresServer) -> None:
    """Else the next statement would get the answer, or the end of its connection."""
    name = await postgres.new_database()
    await make_schema(postgres, name)
    settings = {"database_pool_size": 1, "database_max_overflow": 0, "database_command_timeout_s": 0.5}
    async with opened(runtime, postgres.url(name), **settings) as database:
        with pytest.raises(DatabaseUnavailable):
            await database.fetch("SELECT pg_sleep(60)")
        cancelled = asyncio.create_task(database.fetch("SELECT pg_sleep(60)"))
        await asyncio.sleep(0.1)
        cancelled.cancel()
        await asyncio.wait((cancelled,))
        assert cancelled.cancelled()
        last = await pid(database)
        with pytest.raises(DatabaseUnavailable):
            await database.fetch("SELECT pg_terminate_backend(pg_backend_pid())")
        assert await pid(database) != last


async def test_a_transaction_of_a_process_that_is_frozen_gives_its_locks_up(
    runtime: Runtime, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await postgres.new_database()
    await make_schema(postgres, name)
    monkeypatch.setattr(database_module, "TRANSACTION_S", 1)
    async with opened(runtime, postgres.url(name), database_command_timeout_s=1) as database:
        other = await asyncpg.connect(postgres.url(name).replace("+asyncpg", ""))
        locked = asyncio.Event()
        frozen = asyncio.create_task(freeze_in_a_transaction(database, locked))
        await locked.wait()
        await other.execute("INSERT INTO t VALUES (1)", timeout=DEADLINE_S)
        with pytest.raises(DatabaseUnavailable):
            await frozen
        assert await other.fetchval("SELECT count(*) FROM t") == 1
        await other.close()


async def freeze_in_a_transaction(database: Database, locked: asyncio.Event) -> None:
    """Holds a lock and sends nothing, as if it were frozen, for longer than a transaction may last."""
    async with database.begin() as frozen:
        await frozen.execute(text("LOCK TABLE t"))
        driver = (await frozen.get_raw_connection()).driver_connection
        assert driver is not None
        await driver.prepare("SELECT 1")  # its session counts as active until the statement is sent
        locked.set()
        while not driver.is_closed():
            await asyncio.sleep(0.1)
        await frozen.execute(text("INSERT INTO t VALUES (2)"))


async def test_fetches_keep_a_connection_until_the_pool_needs_it(runtime: Runtime, postgres: PostgresServer) -> None:
    name = await postgres.new_database()
    await make_schema(postgres, name)
    settings = {"database_pool_size": 2, "database_max_overflow": 0, "database_command_timeout_s": 5}
    async with opened(runtime, postgres.url(name), **settings) as database:
        async with asyncio.timeout(DEADLINE_S):
            while not await keeps_one(database):  # the health check runs too
                await asyncio.sleep(0.02)
        for _ in range(2):
            async with database.begin(), database.autocommit() as second:  # both connections of the pool
                assert (await second.execute(text("SELECT 1"))).scalar_one() == 1
                assert database.connections_in_use == 2
            assert await asyncio.gather(pid(database), read(database), pid(database), read(database))
        before = await pid(database)
        await run(postgres, name, f"SELECT pg_terminate_backend({before})")
        async with asyncio.timeout(DEADLINE_S):
            while await pid_or_none(database) in (None, before):
                await asyncio.sleep(0.02)


async def keeps_one(database: Database) -> bool:
    return await pid(database) == await pid(database) and database.connections_in_use == 0


async def pid_or_none(database: Database) -> int | None:
    """None: the connection was lost under the statement."""
    try:
        return await pid(database)
    except DatabaseUnavailable:
        return None


async def pid(database: Database) -> int:
    [row] = await database.fetch("SELECT pg_backend_pid() AS pid")
    return int(row["pid"])


async def test_a_database_made_read_only_is_not_ready_still_reads_and_heals(
    runtime: Runtime, postgres: PostgresServer
) -> None:
    """Connections that were pooled before stay alive."""
    name = await postgres.new_database()
    await make_schema(postgres, name)
    async with opened(runtime, postgres.url(name)) as database:
        await until_ok(runtime, True)
        await write(database)
        async with read_only(postgres):
            assert await until_ok(runtime, False) == "PostgreSQL is read-only"
            for _ in range(7):  # more than open the breaker
                with pytest.raises(DatabaseRefusesWrites):
                    await write(database)
                with pytest.raises(DatabaseRefusesWrites):
                    await database.fetch("INSERT INTO t VALUES (1)")
                assert await read(database) == 1
            assert database.refuses_writes
        await until_ok(runtime, True)
        await write(database)


@pytest.mark.parametrize("sqlstate", ["53100", "53200", "53400"])
async def test_a_write_without_space_or_memory_leaves_the_service_not_ready_until_writes_may_work_again(
    runtime: Runtime, postgres: PostgresServer, sqlstate: str
) -> None:
    name = await postgres.new_database()
    await make_schema(postgres, name)
    fail = f"BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = '{sqlstate}'; END"
    await run(postgres, name, f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $f${fail}$f$")
    await run(postgres, name, "CREATE TRIGGER fails BEFORE INSERT ON t EXECUTE FUNCTION fail()")
    async with opened(runtime, postgres.url(name)) as database:
        await until_ok(runtime, True)
        with pytest.raises(DatabaseRefusesWrites):
            await write(database)
        assert "PostgreSQL has" in await until_ok(runtime, False)
        assert await read(database) == 0
        await run(postgres, name, "DROP TRIGGER fails ON t")
        await until_ok(runtime, True)
        await write(database)


async def test_a_statement_cancelled_by_the_operators_limit_does_not_open_the_breaker(
    runtime: Runtime, postgres: PostgresServer
) -> None:
    name = await postgres.new_database()
    await make_schema(postgres, name)
    async with opened(runtime, postgres.url(name)) as database:
        await until_ok(runtime, True)
        for _ in range(7):
            with pytest.raises(DatabaseBusy):
                await sleep(database, limit="5ms")
        assert await read(database) == 0


async def test_a_users_slow_statement_never_counts_as_postgresql_being_away(
    runtime: Runtime, postgres: PostgresServer
) -> None:
    name = await postgres.new_database()
    await make_schema(postgres, name)
    async with opened(runtime, postgres.url(name), database_command_timeout_s=0.2) as database:
        for _ in range(7):
            with pytest.raises(DatabaseBusy) as caught:
                await sleep(database, limit="0")
            assert "away" not in caught.value.fields
        assert await read(database) == 0


async def test_of_two_hosts_the_one_that_takes_writes_is_used_and_a_failover_is_followed(
    runtime: Runtime, postgres: PostgresServer, second_postgres: PostgresServer
) -> None:
    """Connections to the demoted server are alive and would go on answering reads."""
    name, servers = await postgres.new_database(), (postgres, second_postgres)
    await run(second_postgres, "postgres", f'CREATE DATABASE "{name}"')
    for server in servers:
        await make_schema(server, name)
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    url = f"postgresql+asyncpg://postgres@{hosts}/{name}?target_session_attrs=read-write"
    async with opened(runtime, url) as database:
        async with read_only(second_postgres):
            await until_ok(runtime, True)
            await write(database)
            await demote(postgres)
            await until_ok(runtime, False)
        try:
            await until_ok(runtime, True)
            assert await read(database) == 0
            await write(database)
            assert await read(database) == 1
        finally:
            await promote(postgres)


async def test_a_host_that_swallows_packets_does_not_hide_the_next_one(
    runtime: Runtime, postgres: PostgresServer
) -> None:
    name = await postgres.new_database()
    await make_schema(postgres, name)
    async with silent_port() as port:
        url = f"postgresql+asyncpg://postgres@127.0.0.1:{port},127.0.0.1:{postgres.port}/{name}"
        async with opened(runtime, url, database_connect_timeout_s=0.5) as database:
            await write(database)


async def test_no_host_that_takes_writes_is_an_outage(runtime: Runtime, postgres: PostgresServer) -> None:
    name = await postgres.new_database()
    await make_schema(postgres, name)
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{postgres.port}"
    url = f"postgresql+asyncpg://postgres@{hosts}/{name}?target_session_attrs=read-write"
    async with read_only(postgres), opened(runtime, url) as database:
        with pytest.raises(DatabaseUnavailable):
            await read(database)
        with pytest.raises(DatabaseUnavailable):
            await database.fetch("SELECT 1")


@pytest.mark.parametrize("refusal", ["closed", "missing", "full"])
async def test_a_refused_connection_is_an_outage_for_a_fetch_too(
    runtime: Runtime, postgres: PostgresServer, refusal: str
) -> None:
    """The pool hands out the driver's errors as they are, without SQLAlchemy's wrapper."""
    name = await postgres.new_database()
    await make_schema(postgres, name)
    if refusal == "closed":
        await run(postgres, "postgres", f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    elif refusal == "full":
        await run(postgres, "postgres", "CREATE ROLE visitor LOGIN", f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')
    url = postgres.url(name if refusal != "missing" else "no_such_database")
    if refusal == "full":  # no limit applies to superusers
        url = url.replace("postgres@", "visitor@").replace("postgres:", "visitor:")
    async with opened(runtime, url) as database:
        with pytest.raises(DatabaseUnavailable):
            await database.fetch("SELECT 1")


async def demote(server: PostgresServer) -> None:
    """Living connections stay and become read-only too."""
    await run(server, "postgres", "ALTER SYSTEM SET default_transaction_read_only = on")
    await run(server, "postgres", "SELECT pg_reload_conf()")


async def promote(server: PostgresServer) -> None:
    await run(server, "postgres", "ALTER SYSTEM RESET default_transaction_read_only")
    await run(server, "postgres", "SELECT pg_reload_conf()")


@asynccontextmanager
async def read_only(server: PostgresServer) -> AsyncIterator[None]:
    await demote(server)
    try:
        yield
    finally:
        await promote(server)


@asynccontextmanager
async def silent_port() -> AsyncIterator[int]:
    """Accepts connections and says nothing."""

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            pass
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]

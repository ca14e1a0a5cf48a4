"""DATABASE_URL with two hosts: an old primary that takes writes again is not used, and a host that hangs hides no other."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from artstore.database_errors import DatabaseUnavailable
from artstore.runtime import Runtime
from artstore.testing.services import PostgresServer, start_postgres, temporary_folder

from .test_database import DEADLINE_S, make_schema, opened, read, run, until_ok, write

NAME = "failover"
Servers = tuple[PostgresServer, PostgresServer]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Copies of one cluster that both take writes. The second was promoted, so its timeline is later."""
    with temporary_folder("artstore-hosts-") as folder:
        first, second = folder / "first", folder / "second"
        for place in (first, second):
            place.mkdir()
            place.chmod(0o711)
        before = start_postgres(first)
        asyncio.run(run(before, "postgres", f"CREATE DATABASE {NAME}"))
        asyncio.run(make_schema(before, NAME))
        before.stop()
        subprocess.run(["cp", "-a", first / "postgres", second / "postgres"], check=True)
        signal_file = second / "postgres" / "standby.signal"
        signal_file.touch()
        os.chown(signal_file, (second / "postgres").stat().st_uid, (second / "postgres").stat().st_gid)
        old, promoted = start_postgres(first), start_postgres(second)
        asyncio.run(promote(promoted))
        yield old, promoted
        for server in (old, promoted):
            server.discard()


async def promote(server: PostgresServer) -> None:
    connection = await asyncpg.connect(host="127.0.0.1", port=server.port, user="postgres", database="postgres")
    assert await connection.fetchval("SELECT pg_promote()")
    await connection.close()


def url_of(servers: Servers) -> str:
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    return f"postgresql+asyncpg://postgres@{hosts}/{NAME}?target_session_attrs=read-write"


@asynccontextmanager
async def paused(server: PostgresServer) -> AsyncIterator[None]:
    """It accepts connections and answers nothing."""
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


async def rows(server: PostgresServer) -> int:
    connection = await asyncpg.connect(host="127.0.0.1", port=server.port, user="postgres", database=NAME)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM t"))
    finally:
        await connection.close()


async def test_of_two_hosts_that_take_writes_the_promoted_one_is_used(runtime: Runtime, servers: Servers) -> None:
    old, promoted = servers
    before = await rows(promoted)
    async with opened(runtime, url_of(servers)) as database:
        await write(database)
        assert await read(database) == before + 1
    assert (await rows(old), await rows(promoted)) == (0, before + 1)


async def test_an_old_primary_is_not_used_when_the_promoted_one_is_away(runtime: Runtime, servers: Servers) -> None:
    """A process that has used the promoted one knows better than to write to the other."""
    old, promoted = servers
    before = await rows(promoted)
    async with opened(runtime, url_of(servers), database_connect_timeout_s=0.5) as database:
        await write(database)
        await database.engine.dispose()
        async with paused(promoted):
            with pytest.raises(DatabaseUnavailable):
                await write(database)
        await until_ok(runtime, True)
        await write(database)
    assert (await rows(old), await rows(promoted)) == (0, before + 2)


async def test_a_process_that_has_only_used_the_old_primary_leaves_it(
    runtime: Runtime, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took both hosts for available all the time, as after a short freeze of the old one."""
    old, promoted = servers
    monkeypatch.setattr("artstore.database_hosts.WATCH_EVERY_S", 0.2)
    async with opened(runtime, url_of(servers), database_connect_timeout_s=0.5) as database:
        async with paused(promoted):
            before = await read(database)
            assert before == await rows(old)
        async with asyncio.timeout(DEADLINE_S):
            while await read(database) == before:
                await asyncio.sleep(0.05)
        await write(database)
    assert await rows(old) == before


async def test_readiness_finds_the_other_host_while_the_one_in_use_hangs(
    runtime: Runtime, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check has less patience than one connection has, so it would never come to the other host."""
    monkeypatch.setattr("artstore.database_hosts.WATCH_EVERY_S", 3600)
    old, promoted = servers
    async with opened(runtime, url_of(servers), database_connect_timeout_s=30) as database:
        async with paused(promoted):
            await until_ok(runtime, True)
        async with paused(old):
            await database.engine.dispose()
            await until_ok(runtime, False)
            await until_ok(runtime, True)

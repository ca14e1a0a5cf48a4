"""Messages of committed changes reach Redis: after an outage too, and never from a transaction that was rolled back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from sqlalchemy import text

from artstore.catalog.recent import floor_key, record_key
from artstore.catalog.tables import metadata
from artstore.catalog.write import delete_files, notify
from artstore.config import DatabaseSettings, RedisSettings
from artstore.contracts.events import FILES_CHANNEL, FileChanged
from artstore.database import Database, open_database
from artstore.outbox import Outbox
from artstore.peers.breaker import Breakers
from artstore.redis import open_redis
from artstore.runtime import Runtime
from artstore.testing.services import PostgresServer, ValkeyServer, start_valkey

CHANNEL = "test:channel"
DEADLINE_S = 120


@asynccontextmanager
async def relay(
    runtime: Runtime, postgres: PostgresServer, valkey: ValkeyServer
) -> AsyncIterator[tuple[Database, Outbox]]:
    url = postgres.url(await postgres.new_database())
    breakers = Breakers(runtime.registry)
    async with (
        open_database(DatabaseSettings(database_url=SecretStr(url)), runtime, breakers) as database,
        open_redis(RedisSettings(redis_url=SecretStr(valkey.url())), runtime, breakers) as redis,
    ):
        async with database.engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        yield database, Outbox(runtime, database, redis)
        await runtime.tasks.close()


@asynccontextmanager
async def listening(valkey: ValkeyServer, channel: str = CHANNEL) -> AsyncIterator[list[str]]:
    """The messages heard so far."""
    heard: list[str] = []
    client = Redis.from_url(valkey.url(), decode_responses=True)
    subscription = client.pubsub()
    await subscription.subscribe(channel)

    async def listen() -> None:
        nonlocal heard
        async for message in subscription.listen():
            heard += [message["data"]] if message["type"] == "message" else []

    await subscription.get_message(timeout=5)
    task = asyncio.create_task(listen())
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await subscription.aclose()
        await client.aclose()


async def _give_up(database: Database) -> None:
    async with database.begin() as connection:
        await notify(connection, CHANNEL, ["never"])
        raise ValueError("given up")


async def until_heard(heard: list[str], wanted: set[str]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while set(heard) != wanted:
            await asyncio.sleep(0.01)


async def until_empty(database: Database) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            async with database.begin() as connection:
                if await connection.scalar(text("SELECT count(*) FROM outbox")) == 0:
                    return
            await asyncio.sleep(0.01)


async def test_what_is_committed_is_published_and_then_gone(
    runtime: Runtime, postgres: PostgresServer, valkey: ValkeyServer
) -> None:
    messages = [f"message {number}" for number in range(1200)]
    async with relay(runtime, postgres, valkey) as (database, outbox), listening(valkey) as heard:
        async with database.begin() as connection:
            await notify(connection, CHANNEL, messages)
        outbox.wake()
        await until_heard(heard, set(messages))
        await until_empty(database)


async def test_what_is_rolled_back_is_never_published(
    runtime: Runtime, postgres: PostgresServer, valkey: ValkeyServer
) -> None:
    async with relay(runtime, postgres, valkey) as (database, outbox), listening(valkey) as heard:
        with pytest.raises(ValueError, match="given up"):
            await _give_up(database)
        async with database.begin() as connection:
            await notify(connection, CHANNEL, ["afterwards"])
        outbox.wake()
        await until_heard(heard, {"afterwards"})


async def test_a_redis_outage_delays_a_message_and_does_not_lose_it(
    runtime: Runtime, postgres: PostgresServer, tmp_path: Path
) -> None:
    valkey = start_valkey(tmp_path)
    async with relay(runtime, postgres, valkey) as (database, outbox):
        valkey.stop()
        async with database.begin() as connection:
            await notify(connection, CHANNEL, ["meanwhile"])
        outbox.wake()
        await asyncio.sleep(0.1)
        valkey = start_valkey(tmp_path, valkey.port)
        try:
            async with listening(valkey) as heard:
                await until_heard(heard, {"meanwhile"})
                await until_empty(database)
        finally:
            await runtime.tasks.close()
            valkey.stop()


async def test_a_changed_file_leaves_the_cache_before_its_event_is_received(
    runtime: Runtime, postgres: PostgresServer, valkey: ValkeyServer
) -> None:
    file_id = "0197aaaa-0000-7000-8000-000000000001"
    client = Redis.from_url(valkey.url(), decode_responses=True)
    await client.delete(record_key(file_id), floor_key(file_id))
    await client.set(record_key(file_id), "any:epoch:1 {}")
    event = FileChanged(file_id=file_id, revision=1, change="delete", storage_element_id="se-01")
    async with relay(runtime, postgres, valkey) as (database, outbox), listening(valkey, FILES_CHANNEL) as heard:
        async with database.begin() as connection:
            await delete_files(connection, [event])
        outbox.wake()
        await until_heard(heard, {msgspec.json.encode(event).decode()})
        assert not await client.exists(record_key(file_id))
        assert await client.get(floor_key(file_id)) == "2"
    await client.aclose()


async def test_while_redis_refuses_writes_no_event_is_published_and_afterwards_each_once(
    runtime: Runtime, postgres: PostgresServer, tmp_path: Path
) -> None:
    """Redis that refuses the drop would still publish, and again with each try."""
    valkey = start_valkey(tmp_path)
    operator = Redis.from_url(valkey.url(), decode_responses=True)
    event = FileChanged(
        file_id="0197aaaa-0000-7000-8000-000000000002", revision=2, change="update", storage_element_id="se-01"
    )
    message = msgspec.json.encode(event).decode()
    async with relay(runtime, postgres, valkey) as (database, outbox), listening(valkey, FILES_CHANNEL) as heard:
        await until_redis(runtime, ok=True)
        await operator.execute_command("REPLICAOF", "127.0.0.1", "1")
        async with database.begin() as connection:
            await notify(connection, FILES_CHANNEL, [message])
        outbox.wake()
        await until_redis(runtime, ok=False)
        for _ in range(5):
            outbox.wake()
            await asyncio.sleep(0.1)
        assert heard == []
        await operator.execute_command("REPLICAOF", "NO", "ONE")
        await until_heard(heard, {message})
        await until_empty(database)
        assert heard == [message]
    await operator.aclose()
    valkey.stop()


async def until_redis(runtime: Runtime, *, ok: bool) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while runtime.health.report()["checks"]["redis"]["ok"] is not ok:
            await asyncio.sleep(0.02)

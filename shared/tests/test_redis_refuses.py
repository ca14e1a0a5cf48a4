"""Redis that answers and does not do its work is away for every use of it, and is used again as soon as it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from artstore.config import RedisSettings
from artstore.peers.breaker import Breakers
from artstore.redis import CountedRedis, listen, open_redis
from artstore.runtime import Runtime
from artstore.testing.network import Network
from artstore.testing.services import ValkeyServer, start_valkey, temporary_folder

DEADLINE_S = 30
EVERYTHING = ("ACL", "SETUSER", "default", "on", "nopass", "~*", "&*", "+@all")
Command = tuple[str, ...]
REFUSALS: dict[str, tuple[Command, Command, str]] = {
    "a replica": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "Redis is a read-only replica"),
    "out of memory": (
        ("CONFIG", "SET", "maxmemory", "1mb"),
        ("CONFIG", "SET", "maxmemory", "0"),
        "Redis has no memory left",
    ),
    "no permission": (("ACL", "SETUSER", "default", "-@write"), EVERYTHING, "Redis denies this service a permission"),
    "a new password": (
        ("CONFIG", "SET", "requirepass", "secret"),
        ("CONFIG", "SET", "requirepass", ""),
        "Redis refuses this service's login",
    ),
    "no connection left": (("CONFIG", "SET", "maxclients", "1"), ("CONFIG", "SET", "maxclients", "100"), ""),
}
"""By name: what brings it about, what ends it, what the health check says. Connections that are open stay open."""


@pytest.fixture
async def own() -> AsyncIterator[ValkeyServer]:
    with temporary_folder("artstore-refusing-") as folder:
        server = start_valkey(folder)
        yield server
        server.stop()


@asynccontextmanager
async def opened(runtime: Runtime, url: str) -> AsyncIterator[CountedRedis]:
    async with open_redis(RedisSettings(redis_url=SecretStr(url)), runtime, Breakers(runtime.registry)) as redis:
        await until(lambda: redis.takes_writes)
        yield redis
        await runtime.tasks.close()


@asynccontextmanager
async def operator(server: ValkeyServer) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """A connection that was there before."""
    client = Redis.from_url(server.url(), single_connection_client=True)
    await client.ping()
    yield client.execute_command
    await client.aclose()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.02)


def detail(runtime: Runtime) -> str:
    return str(runtime.health.report()["checks"]["redis"]["detail"])


@pytest.mark.parametrize("kind", REFUSALS)
async def test_redis_that_refuses_is_away_for_every_command_and_heals_by_itself(
    runtime: Runtime, own: ValkeyServer, kind: str
) -> None:
    refuse, heal, said = REFUSALS[kind]
    async with opened(runtime, own.url()) as redis, operator(own) as operate:
        await redis.set("key", "value")
        before = redis.generation
        await operate(*refuse)
        await until(lambda: not redis.takes_writes)
        await until(lambda: detail(runtime) != "ok" and said in detail(runtime))
        with pytest.raises(RedisConnectionError):  # a read too: what it says may be old
            await redis.get("key")
        await operate(*heal)
        await until(lambda: redis.takes_writes)
        assert redis.generation > before
        assert await redis.get("key") == "value"


async def test_a_failed_save_counts_as_away(runtime: Runtime, own: ValkeyServer) -> None:
    """MISCONF: the file of the dump is a folder."""
    async with opened(runtime, own.url()) as redis, operator(own) as operate:
        folder = Path((await operate("CONFIG", "GET", "dir"))[b"dir"].decode())
        (folder / "dump.rdb").mkdir()
        (folder / "dump.rdb" / "full").touch()
        await operate("CONFIG", "SET", "save", "3600 1")
        await operate("BGSAVE")
        await until(lambda: not redis.takes_writes)
        await until(lambda: detail(runtime) == "Redis refuses writes: MISCONF")
        await operate("CONFIG", "SET", "save", "")
        await until(lambda: redis.takes_writes)


async def test_redis_that_evicts_is_not_away(runtime: Runtime, own: ValkeyServer) -> None:
    async with opened(runtime, own.url()) as redis, operator(own) as operate:
        await operate("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        await operate("CONFIG", "SET", "maxmemory", "2mb")
        for number in range(64):
            await redis.set(f"key{number}", "x" * 65536)
        assert redis.takes_writes


async def test_a_name_that_leads_to_another_server_is_followed_with_commands_and_subscriptions(
    runtime: Runtime, own: ValkeyServer, valkey: ValkeyServer
) -> None:
    """The old server stays alive, takes writes, and keeps its connections."""
    with Network() as network:
        proxy = network.proxy(("127.0.0.1", own.port))
        heard: list[str] = []

        async def hear(message: str) -> None:
            heard.append(message)

        async def stands() -> None:
            heard.append("stands")

        async with opened(runtime, own.url(port=proxy.port)) as redis:
            await redis.set("where", "old")
            runtime.tasks.forever("hearing", lambda: listen(redis, {"channel": hear}, subscribed=stands))
            await until(lambda: heard == ["stands"])
            proxy.lead_to(("127.0.0.1", valkey.port))
            async with operator(valkey) as operate:
                await operate("SET", "where", "new")
                await until(lambda: heard == ["stands", "stands"])
                assert await redis.get("where") == "new"
                await operate("PUBLISH", "channel", "from the new one")
                await until(lambda: heard[-1] == "from the new one")

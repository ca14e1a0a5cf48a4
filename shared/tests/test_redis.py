"""The pool of Redis connections, on the event loop that the services run on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop
from pydantic import SecretStr

from artstore.audit.writer import AuditWriter
from artstore.clock import Clock
from artstore.config import RedisSettings, ServiceSettings
from artstore.errors import Unavailable
from artstore.health import Health
from artstore.limits.limiter import Limiter
from artstore.limits.load import Load
from artstore.metrics import FileMetrics, new_registry
from artstore.peers.breaker import Breakers
from artstore.redis import CountedRedis, open_redis
from artstore.runtime import Runtime
from artstore.tasks import Tasks
from artstore.testing.network import Network
from artstore.testing.services import ValkeyServer

CONNECTIONS = 5
ROUNDS = 20


@pytest.fixture(autouse=True)
def one_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start only: one that is lost twice opens the breaker."""
    monkeypatch.setattr("artstore.redis.PROBE_EVERY_S", 3600)


def test_connections_lost_while_they_lay_in_the_pool_cost_no_command(valkey: ValkeyServer) -> None:
    """uvloop raises RuntimeError for a write to a connection that is gone, which redis-py would pass on to the request."""

    async def lose_them(network: Network) -> None:
        proxy = network.proxy(("127.0.0.1", valkey.port))
        async with opened(valkey.url(port=proxy.port)) as redis:
            await redis.wait_until_accepting()
            for _ in range(ROUNDS):
                await asyncio.gather(*(redis.get("key") for _ in range(CONNECTIONS)))
                await asyncio.to_thread(proxy.reset)
                await asyncio.gather(*(redis.get("key") for _ in range(CONNECTIONS)))

    with Network() as network, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(lose_them(network))


async def test_a_probe_whose_connection_is_lost_on_the_way_is_tried_once_more(valkey: ValkeyServer) -> None:
    losses = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal losses
        answers, questions = await asyncio.open_connection("127.0.0.1", valkey.port)
        while asked := await reader.read(65536):
            if losses and b":probe:" in asked:
                losses -= 1
                break
            questions.write(asked)
            writer.write(await answers.read(65536))
        questions.close()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with opened(valkey.url(port=server.sockets[0].getsockname()[1])) as redis:
        await redis.wait_until_accepting()
        losses = 1
        await redis.check()
        losses = 2
        with pytest.raises(Unavailable):
            await redis.check()
    server.close()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[CountedRedis]:
    async with Tasks.open() as tasks:
        registry = new_registry()
        clock = Clock()
        limiter = Limiter(clock, Load(1, 1000, registry), registry)
        settings = ServiceSettings(port=1)
        audit = AuditWriter("test", None, clock, tasks, registry)
        runtime = Runtime(settings, clock, registry, FileMetrics(registry), Health(tasks), tasks, limiter, audit, print)
        given = RedisSettings(redis_url=SecretStr(url))
        async with open_redis(given, runtime, Breakers(registry)) as redis:
            yield redis
            await tasks.close()

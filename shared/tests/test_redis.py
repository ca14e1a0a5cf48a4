"""The pool of Redis connections, on the event loop that the services run on."""

from __future__ import annotations

import asyncio

import uvloop

from artstore.audit.writer import AuditWriter
from artstore.breaker import Breakers
from artstore.clock import Clock
from artstore.config import RedisSettings, ServiceSettings
from artstore.health import Health
from artstore.limits.limiter import Limiter
from artstore.limits.load import Load
from artstore.metrics import FileMetrics, new_registry
from artstore.redis import open_redis
from artstore.service import Runtime
from artstore.tasks import Tasks
from artstore.testing.network import Network
from artstore.testing.services import ValkeyServer

CONNECTIONS = 5
ROUNDS = 20


def test_connections_lost_while_they_lay_in_the_pool_cost_no_command(valkey: ValkeyServer) -> None:
    """uvloop raises RuntimeError for a write to a connection that is gone, which redis-py would pass on to the request."""

    async def lose_them(network: Network) -> None:
        proxy = network.proxy(("127.0.0.1", valkey.port))
        async with Tasks.open() as tasks:
            registry = new_registry()
            clock = Clock()
            limiter = Limiter(clock, Load(1, 1000, registry), registry)
            settings = ServiceSettings(port=1)
            audit = AuditWriter("test", None, clock, tasks, registry)
            runtime = Runtime(
                settings, clock, registry, FileMetrics(registry), Health(tasks), tasks, limiter, audit, print
            )
            url = RedisSettings(redis_url=valkey.url(port=proxy.port))  # type: ignore[arg-type]
            async with open_redis(url, runtime, Breakers(registry)) as redis:
                for _ in range(ROUNDS):
                    await asyncio.gather(*(redis.get("key") for _ in range(CONNECTIONS)))
                    await asyncio.to_thread(proxy.reset)
                    await asyncio.gather(*(redis.get("key") for _ in range(CONNECTIONS)))
                await tasks.close()

    with Network() as network, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(lose_them(network))

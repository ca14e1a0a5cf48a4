"""Redis or Valkey: one pool per process, every operation counted, and an outage that costs microseconds, not seconds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import Counter
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from artstore.breaker import Breaker, Breakers
from artstore.config import RedisSettings
from artstore.errors import Unavailable
from artstore.logs import get_logger
from artstore.service import Runtime

log = get_logger("artstore.redis")

EDGE = "redis"
AWAY = (RedisConnectionError, RedisTimeoutError, OSError)
PING_EVERY_S = 2.0
"""A subscription that hears nothing asks for a sign of life this often; two silences end it."""


class Edge:
    """Every command, alone or in a pipeline, goes through here: counted, and refused at once while Redis is away."""

    def __init__(self, operations: Counter, breaker: Breaker) -> None:
        self._operations, self.breaker = operations, breaker

    async def run(self, operation: str, send: Awaitable[Any]) -> Any:
        """Raises RedisError and nothing else: an open breaker raises it too."""
        try:
            async with self.breaker.guard():
                answer = await send
        except Unavailable as error:
            self._operations.labels(operation, "refused").inc()
            raise RedisConnectionError(error.detail) from error
        except RedisError:
            self._operations.labels(operation, "error").inc()
            raise
        finally:
            if isinstance(send, Coroutine):
                send.close()  # refused, it was never awaited
        self._operations.labels(operation, "ok").inc()
        return answer


class CountedPipeline(Pipeline):
    edge: Edge

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        answers: list[Any] = await self.edge.run("pipeline", super().execute(raise_on_error))
        return answers


class CountedRedis(Redis):
    def __init__(self, *, edge: Edge, **options: Any) -> None:
        super().__init__(**options)
        self._send: Callable[..., Awaitable[Any]] = super().execute_command  # untyped in the library
        self._edge = edge

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        return await self._edge.run(str(args[0]).split(" ", 1)[0].lower(), self._send(*args, **options))

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        made = CountedPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        made.edge = self._edge
        return made

    async def check(self) -> None:
        """Past the breaker, so that a return is seen at once."""
        await self._send("PING")
        self._edge.breaker.heal()


class _Noticing:
    """A pooled connection that was closed from the other side is a lost one: redis-py then tries once more, on a new one.

    uvloop says so with a RuntimeError, of which redis-py knows nothing.
    """

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)  # type: ignore[misc]  # mixed into a Connection
        except RuntimeError as error:
            raise RedisConnectionError(f"the connection was lost: {error}") from error


@asynccontextmanager
async def open_redis(
    settings: RedisSettings, runtime: Runtime, breakers: Breakers, *, required: bool = False
) -> AsyncIterator[Redis]:
    """Does not connect: the first command does. Adds the health check `redis`, by default one that is not required."""
    pool: Any = BlockingConnectionPool.from_url(
        settings.redis_url.get_secret_value(),
        max_connections=settings.redis_max_connections,
        timeout=settings.redis_timeout_s,
        socket_connect_timeout=settings.redis_connect_timeout_s,
        socket_timeout=settings.redis_timeout_s,
        decode_responses=True,
        retry=Retry(NoBackoff(), 1),
    )
    pool.connection_class = type("NoticingConnection", (_Noticing, pool.connection_class), {})
    operations = Counter(
        "redis_operations_total", "Commands sent to Redis", ["operation", "result"], registry=runtime.registry
    )
    redis = CountedRedis(edge=Edge(operations, breakers.to(EDGE, AWAY)), connection_pool=pool)
    runtime.health.add("redis", redis.check, required=required)
    runtime.limiter.connect(redis)
    try:
        yield redis
    finally:
        await redis.aclose()
        await pool.disconnect()


Handler = Callable[[str], Awaitable[object]]


async def listen(redis: Redis, handlers: Mapping[str, Handler], *, subscribed: Callable[[], Awaitable[object]]) -> None:
    """Subscribe to the channels and hand on each message, one after the other; `subscribed` runs right after the
    subscriptions stand, to read what was missed.

    Runs until the connection is lost, then raises RedisError: whoever calls begins again (`Tasks.forever`).
    """
    async with redis.pubsub() as subscription:
        await subscription.subscribe(*handlers)
        silent = standing = 0
        while silent < 2:
            heard = await subscription.get_message(timeout=PING_EVERY_S)
            if heard is None:
                silent += 1
                await subscription.ping()
                continue
            silent = 0
            if heard["type"] == "subscribe":
                standing += 1
                if standing == len(handlers):
                    await subscribed()
            elif heard["type"] == "message":
                await handlers[heard["channel"]](heard["data"])
    raise RedisConnectionError(f"the subscription to {', '.join(handlers)} has gone silent")

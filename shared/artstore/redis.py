"""Redis or Valkey: one pool per process, every operation counted, and an outage that costs microseconds, not seconds.

Redis that refuses writes (a replica, MISCONF, OOM, NOPERM …) counts as away for every use of it. Each process finds out by a
write of its own every second, over a new connection, so a name that leads to another server is noticed too.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import Counter
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from artstore.config import RedisSettings
from artstore.errors import Unavailable
from artstore.logs import get_logger
from artstore.peers.breaker import Breaker, Breakers
from artstore.runtime import Runtime

log = get_logger("artstore.redis")

EDGE = "redis"
AWAY = (RedisConnectionError, RedisTimeoutError, OSError)
PING_EVERY_S = 2.0
"""A subscription that hears nothing asks for a sign of life this often; two silences end it."""
PROBE_EVERY_S = 1.0
PROBE_TIMEOUT_S = 2.0
PROBE_EXPIRES_S = 10
CONNECT_TIMEOUT_S = 1.0
MAX_CONNECTIONS = 50
"""In the pool of one process; a command beyond waits for one as long as a command may take."""
TRUST_S = 3.0
"""A process whose last accepted write began longer ago than this no longer believes anything that Redis or its events say.
A change that could not be announced is acknowledged after the same time, when every process has stopped believing."""

_WORDS: Mapping[type[BaseException], str] = {
    AuthenticationError: "Redis refuses this service's login",
    BusyLoadingError: "Redis is loading its data",
    ClusterDownError: "Redis has no working cluster",
    NoPermissionError: "Redis grants this service too little",
    OutOfMemoryError: "Redis has no memory left",
    ReadOnlyError: "Redis is a read-only replica",
}
_REFUSED_BY_CODE = re.compile(r"(?:^|caused error: )(MISCONF|NOREPLICAS|BUSY) ")
"""Codes without a class in the library, alone or in a pipeline."""


def refusal_of(error: BaseException) -> str | None:
    """Why Redis does not do its work although it answers; None when it refused one command for its content."""
    for kind, words in _WORDS.items():
        if isinstance(error, kind):
            return words
    found = _REFUSED_BY_CODE.search(str(error)) if isinstance(error, ResponseError) else None
    return f"Redis refuses writes: {found[1]}" if found else None


class Edge:
    """Every command, alone or in a pipeline, goes through here: counted, and refused at once while Redis is away."""

    def __init__(self, operations: Counter, breaker: Breaker) -> None:
        self._operations, self.breaker = operations, breaker

    async def run(self, operation: str, send: Awaitable[Any]) -> Any:
        """Raises RedisError and nothing else: an open breaker raises it too."""
        try:
            async with self.breaker.guard():
                answer = await _refusing_is_away(send)
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


async def _refusing_is_away(send: Awaitable[Any]) -> Any:
    try:
        return await send
    except ResponseError as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        raise RedisConnectionError(refusal) from error


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
        self._probe_key = f"artstore:probe:{{{secrets.token_hex(8)}}}"
        self._confirm: Callable[[bool], Awaitable[None]] | None = None
        self._server: str | None = None
        self._accepted_s = float("-inf")
        self.generation = 0
        self.failing_since_s: float | None = None
        """When the first of the writes began that have failed without one accepted in between."""
        self._accepting = asyncio.Event()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        return await self._edge.run(str(args[0]).split(" ", 1)[0].lower(), self._send(*args, **options))

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        made = CountedPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        made.edge = self._edge
        return made

    async def check(self) -> None:
        """The health check: one write over a new connection. Past the breaker, which it opens and closes."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                server = await self._write()
        except (RedisError, OSError, TimeoutError) as error:
            await self._note_failed(began_s, error)
            raise Unavailable(refusal_of(error) or "Redis does not answer", away=EDGE) from error
        returned = self._server != server or self.failing_since_s is not None
        self._edge.breaker.heal()
        if returned:
            await self._forget_connections()
        try:
            if self._confirm is not None:
                await self._confirm(returned)
        except RedisError as error:
            await self._note_failed(began_s, error)
            raise Unavailable(refusal_of(error) or "Redis does not answer", away=EDGE) from error
        if returned:
            self.generation += 1
        self._server, self.failing_since_s, self._accepted_s = server, None, began_s
        self._accepting.set()

    async def wait_until_accepting(self) -> None:
        """Returns when the latest write was accepted."""
        await self._accepting.wait()

    @property
    def takes_writes(self) -> bool:
        """Redis accepted a write that began less than TRUST_S ago, and none has failed since."""
        return self.failing_since_s is None and time.monotonic() < self._accepted_s + TRUST_S

    def on_accepted(self, confirm: Callable[[bool], Awaitable[None]]) -> None:
        """`confirm` runs after each accepted write, before Redis is believed; True: Redis was away or is another server."""
        self._confirm = confirm

    async def _note_failed(self, began_s: float, error: BaseException) -> None:
        slow = isinstance(error, TimeoutError | RedisTimeoutError)
        if slow and self.takes_writes:
            return  # a busy machine, perhaps; what is trusted stays so until its time has run out
        if self.failing_since_s is None:
            self.failing_since_s = began_s
        self._accepting.clear()
        self._edge.breaker.trip(RedisConnectionError(str(error)))
        await self._forget_connections()

    async def _forget_connections(self) -> None:
        """Those in the pool: the name may lead elsewhere now. One in use fails by itself, or its subscription ends."""
        with contextlib.suppress(RedisError, OSError):
            await self.connection_pool.disconnect(inuse_connections=False)

    async def _write(self) -> str:
        """A connection that is lost on the way says little about the server: a second one is tried."""
        try:
            return await self._write_once()
        except RedisConnectionError as error:
            if refusal_of(error):
                raise
            return await self._write_once()

    async def _write_once(self) -> str:
        """The id of the server's run, which another server or a restarted one does not share."""
        connection: Any = self.connection_pool.make_connection()
        try:
            await connection.connect()
            await connection.send_command("SET", self._probe_key, "1", "EX", PROBE_EXPIRES_S)
            await connection.read_response()
            await connection.send_command("INFO", "server")
            found = re.search(r"run_id:(\w+)", str(await connection.read_response()))
        finally:
            await connection.disconnect(nowait=True)
        return found[1] if found else ""


def generation_of(redis: Redis) -> int:
    """Grows each time Redis is back or is another server; what was subscribed to before is void."""
    return redis.generation if isinstance(redis, CountedRedis) else 0


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
) -> AsyncIterator[CountedRedis]:
    """Does not connect: the first command does. Adds the health check `redis`, by default one that is not required."""
    pool: Any = BlockingConnectionPool.from_url(
        settings.redis_url.get_secret_value(),
        max_connections=MAX_CONNECTIONS,
        timeout=settings.redis_timeout_s,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=settings.redis_timeout_s,
        decode_responses=True,
        retry=Retry(NoBackoff(), 1),
    )
    pool.connection_class = type("NoticingConnection", (_Noticing, pool.connection_class), {})
    operations = Counter(
        "redis_operations_total", "Commands sent to Redis", ["operation", "result"], registry=runtime.registry
    )
    redis = CountedRedis(edge=Edge(operations, breakers.to(EDGE, AWAY)), connection_pool=pool)
    timeout_s = PROBE_TIMEOUT_S + settings.redis_timeout_s * 2
    runtime.health.add("redis", redis.check, required=required, every_s=PROBE_EVERY_S, timeout_s=timeout_s)
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

    Returns when Redis was away or is another server meanwhile, and raises RedisError when the connection is lost: whoever
    calls begins again (`Tasks.forever`). Begins once Redis takes writes.
    """
    if isinstance(redis, CountedRedis):
        await redis.wait_until_accepting()
    generation = generation_of(redis)
    async with redis.pubsub() as subscription:
        await subscription.subscribe(*handlers)
        silent = standing = 0
        while silent < 2:
            heard = await subscription.get_message(timeout=PING_EVERY_S)
            if generation_of(redis) != generation:
                return
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

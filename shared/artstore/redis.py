"""Redis or Valkey: one pool per process, every command counted, and a circuit breaker, so that an outage
costs no waiting.

A server that refuses writes (a replica, MISCONF, OOM, NOPERM …) counts as unavailable for every use. Each
process probes it every second with a write over a new connection, so it also notices a name that resolves to
another server. In a cluster (redis_cluster.py) the master of the keys under HOME is probed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from prometheus_client import Counter
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from artstore.config import RedisSettings
from artstore.errors import REDIS, Unavailable
from artstore.logs import get_logger
from artstore.peers.breaker import Breaker, Breakers
from artstore.redis_cluster import HOME, HOME_SLOT, Cluster, ClusterUrl, is_cluster
from artstore.runtime import Runtime
from artstore.tasks import until_tick
from artstore.tracing import begin_work, call_span

log = get_logger("artstore.redis")

AWAY = (RedisConnectionError, RedisTimeoutError, OSError)
PING_EVERY_S = 2.0
"""A subscription without messages sends a PING this often; without an answer to two of them it ends."""
PROBE_EVERY_S = 1.0
PROBE_TIMEOUT_S = 2.0
PROBE_EXPIRES_S = 10
CONNECT_TIMEOUT_S = 1.0
MAX_CONNECTIONS = 50
"""In the pool of one process, to one server; a command beyond waits for one as long as a command may take."""
TRUST_S = 3.0
"""A process stops trusting Redis and its events this long after its last accepted write began. A change that
could not be announced is acknowledged after the same time, when no process trusts its cache any more."""

_WORDS: Mapping[type[BaseException], str] = {
    AuthenticationError: "Redis refuses this service's login",
    BusyLoadingError: "Redis is loading its data",
    ClusterDownError: "Redis has no working cluster",
    NoPermissionError: "Redis denies this service a permission",
    OutOfMemoryError: "Redis has no memory left",
    ReadOnlyError: "Redis is a read-only replica",
    MovedError: "Redis does not know yet which node has the data",
    AskError: "Redis is moving the data to another node",
    TryAgainError: "Redis is moving the data to another node",
}
_REFUSED_BY_CODE = re.compile(r"^(MISCONF|NOREPLICAS|BUSY) ")
"""Error codes without a class in redis-py."""


def refusal_of(error: BaseException) -> str | None:
    """The reason if Redis answers but refuses its service; None if it refused one command for its content."""
    for kind, words in _WORDS.items():
        if isinstance(error, kind):
            return words
    found = _REFUSED_BY_CODE.search(str(error)) if isinstance(error, ResponseError) else None
    return f"Redis refuses writes: {found[1]}" if found else None


class CommandRunner:
    """Runs every command: counts it, and refuses it immediately while the breaker is open."""

    def __init__(self, operations: Counter, breaker: Breaker) -> None:
        self._operations, self.breaker = operations, breaker

    async def run(self, operation: str, send: Awaitable[Any]) -> Any:
        """Raises only RedisError, also for an open breaker."""
        try:
            attributes = {"db.system.name": "redis", "db.operation.name": operation}
            with call_span("redis", attributes):
                async with self.breaker.guard():
                    answer = await _raise_refusals(send)
        except Unavailable as error:
            self._operations.labels(operation, "refused").inc()
            raise RedisConnectionError(error.detail) from error
        except RedisError:
            self._operations.labels(operation, "error").inc()
            raise
        finally:
            if isinstance(send, Coroutine):
                send.close()  # it was never awaited if the breaker refused it
        self._operations.labels(operation, "ok").inc()
        return answer


async def _raise_refusals(send: Awaitable[Any]) -> Any:
    try:
        return await send
    except ResponseError as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        raise RedisConnectionError(refusal) from error


class TextScript(AsyncScript):
    """A Lua script, sent by its hash. A server that does not know it is sent the text, which needs no other command and so
    works the same on each node of a cluster."""

    async def __call__(self, keys: Any = None, args: Any = None, client: Any = None) -> Any:
        given = (len(keys or ()), *(keys or ()), *(args or ()))
        try:
            return await self.registered_client.execute_command("EVALSHA", self.sha, *given)
        except NoScriptError:
            return await self.registered_client.execute_command("EVAL", self.script, *given)


class CountedRedis(Redis):
    """The client of one server, or of a cluster. All keys of one command must have the same slot."""

    def __init__(self, *, runner: CommandRunner, cluster: Cluster | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._cluster = cluster
        self._send: Callable[..., Awaitable[Any]] = cluster.send if cluster else super().execute_command
        self._runner = runner
        self._probe_name, self._probes = f"{HOME}probe:{secrets.token_hex(8)}", 0
        self._confirm: Callable[[bool], Awaitable[None]] | None = None
        self._server: str | None = None
        self._kept_probe: Any = None
        """The connection of the last probe, if it is to serve another one."""
        self._accepted_s = float("-inf")
        self.generation = 0
        self.failing_since_s: float | None = None
        """When the first write began that failed after the last accepted one; None while writes are accepted.
        """
        self._accepting = asyncio.Event()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        return await self._runner.run(str(args[0]).split(" ", 1)[0].lower(), self._send(*args, **options))

    def register_script(self, script: Any) -> TextScript:  # type: ignore[override]  # typed for both kinds of client
        return TextScript(self, script)

    def pubsub(self, **options: Any) -> PubSub:
        return self._cluster.home.pubsub(**options) if self._cluster else super().pubsub(**options)

    @property
    def moved_s(self) -> float:
        """When this process learned that another node of the cluster has the home's keys now; -inf if never."""
        return self._cluster.home_moved_s if self._cluster else float("-inf")

    async def check(self) -> None:
        """The health check: one write, every other time over a new connection. It bypasses the breaker, and opens and closes
        it."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                server = await self._write()
        except (RedisError, OSError, TimeoutError) as error:
            await self._note_failed(began_s, error)
            raise Unavailable(refusal_of(error) or "Redis does not answer", away=REDIS) from error
        returned = self._server != server or self.failing_since_s is not None
        self._runner.breaker.heal()
        if returned:
            await self._drop_idle_connections()
        try:
            if self._confirm is not None:
                await self._confirm(returned)
        except RedisError as error:
            await self._note_failed(began_s, error)
            raise Unavailable(refusal_of(error) or "Redis does not answer", away=REDIS) from error
        if returned:
            self.generation += 1
        self._server, self.failing_since_s, self._accepted_s = server, None, began_s
        self._accepting.set()

    async def wait_until_accepting(self) -> None:
        """Returns as soon as the latest probe was accepted."""
        await self._accepting.wait()

    @property
    def takes_writes(self) -> bool:
        """True if Redis accepted a write that began less than TRUST_S ago and none has failed since."""
        return self.failing_since_s is None and time.monotonic() < self._accepted_s + TRUST_S

    def on_accepted(self, confirm: Callable[[bool], Awaitable[None]]) -> None:
        """`confirm` runs after each accepted probe, before Redis is trusted. Its argument is True if Redis
        was unavailable or the server has changed."""
        self._confirm = confirm

    async def _note_failed(self, began_s: float, error: BaseException) -> None:
        slow = isinstance(error, TimeoutError | RedisTimeoutError)
        if slow and self.takes_writes:
            return  # perhaps only a busy machine: Redis stays trusted until TRUST_S is over
        if self.failing_since_s is None:
            self.failing_since_s = began_s
        self._accepting.clear()
        self._runner.breaker.trip(RedisConnectionError(str(error)))
        await self._drop_idle_connections()

    async def _drop_idle_connections(self) -> None:
        """Closes the idle connections, because the name may resolve to another server now. Connections in use
        fail by themselves."""
        for client in self._cluster.clients if self._cluster else [self]:
            with contextlib.suppress(RedisError, OSError):
                await client.connection_pool.disconnect(inuse_connections=False)

    async def _write(self) -> str:
        """Tries a second connection if the first one is lost, which says little about the server."""
        try:
            return await self._write_at_home()
        except RedisConnectionError as error:
            if refusal_of(error):
                raise
            return await self._write_at_home()

    async def _write_at_home(self) -> str:
        if self._cluster is None:
            return await self._write_once(self)
        return str(await self._cluster.follow(HOME_SLOT, self._write_once))

    async def _write_once(self, client: Redis) -> str:
        """Writes the probe key and returns the server's run id, which changes with a restart or another
        server. Each connection serves two probes, because opening one costs more than the probe.

        Each probe has a key of its own: while the home's keys are moved one by one, a new key is refused from the
        beginning.
        """
        connection, self._kept_probe = self._kept_probe, None
        server, used_before = self._server, connection is not None
        keep = False
        self._probes += 1
        try:
            if not used_before:
                connection = client.connection_pool.make_connection()
                await connection.connect()
            await connection.send_command("SET", f"{self._probe_name}:{self._probes}", "1", "EX", PROBE_EXPIRES_S)
            await connection.read_response()
            if not used_before:
                await connection.send_command("INFO", "server")
                found = re.search(r"run_id:(\w+)", str(await connection.read_response()))
                server = found[1] if found else ""
                keep = True
        finally:
            if keep:
                self._kept_probe = connection
            elif connection is not None:
                await connection.disconnect(nowait=True)
        return server or ""

    async def close_probe(self) -> None:
        """Closes the connection that is kept for the next probe."""
        connection, self._kept_probe = self._kept_probe, None
        if connection is not None:
            await connection.disconnect(nowait=True)


def generation_of(redis: Redis) -> int:
    """A number that grows each time Redis has recovered or the server has changed; older subscriptions are
    invalid."""
    return redis.generation if isinstance(redis, CountedRedis) else 0


class _LostConnection:
    """Mixin for connections: turns uvloop's RuntimeError for a closed connection into the error that makes
    redis-py retry."""

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)  # type: ignore[misc]  # mixed into a Connection
        except RuntimeError as error:
            raise RedisConnectionError(f"the connection was lost: {error}") from error


@asynccontextmanager
async def open_redis(settings: RedisSettings, runtime: Runtime, breakers: Breakers) -> AsyncIterator[CountedRedis]:
    """Opens the pool without connecting. Adds the health check `redis`, which is not required."""
    url = settings.redis_url.get_secret_value()
    cluster = Cluster(ClusterUrl(url), partial(_open_node, settings)) if is_cluster(url) else None
    pool = cluster.home.connection_pool if cluster else _open_pool(settings, url)
    operations = Counter(
        "redis_operations_total", "Commands sent to Redis", ["operation", "result"], registry=runtime.registry
    )
    runner = CommandRunner(operations, breakers.to(REDIS, AWAY))
    redis = CountedRedis(runner=runner, cluster=cluster, connection_pool=pool)
    timeout_s = PROBE_TIMEOUT_S + settings.redis_timeout_s * 2
    runtime.health.add(REDIS, redis.check, required=False, every_s=PROBE_EVERY_S, timeout_s=timeout_s)
    runtime.limiter.connect(redis)
    try:
        yield redis
    finally:
        await redis.close_probe()
        await redis.aclose()
        await (cluster.aclose() if cluster else pool.disconnect())


def _open_node(settings: RedisSettings, url: str) -> Redis:
    return Redis(connection_pool=_open_pool(settings, url))


def _open_pool(settings: RedisSettings, url: str) -> Any:
    pool: Any = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=settings.redis_timeout_s,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=settings.redis_timeout_s,
        decode_responses=True,
        retry=Retry(NoBackoff(), 1),
        # Each saves one or two round trips of a new connection; the first also reads the library's metadata from disk.
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    pool.connection_class = type("RetryingConnection", (_LostConnection, pool.connection_class), {})
    return pool


Handler = Callable[[str], Awaitable[object]]


async def listen(redis: Redis, handlers: Mapping[str, Handler], *, subscribed: Callable[[], Awaitable[object]]) -> None:
    """Subscribes to channels and calls their handlers with each message, one after another. `subscribed` runs
    as soon as all channels are subscribed, to read what was missed before.

    Waits until Redis accepts writes. Returns if Redis was unavailable or the server has changed meanwhile,
    and raises RedisError if the connection is lost; in both cases the caller must call it again
    (`Tasks.forever`).
    """
    if isinstance(redis, CountedRedis):
        await redis.wait_until_accepting()
    generation = generation_of(redis)
    async with redis.pubsub() as subscription:
        await subscription.subscribe(*handlers)
        silent = active = 0
        while silent < 2:
            message = await subscription.get_message(timeout=until_tick(PING_EVERY_S))
            if generation_of(redis) != generation:
                return
            if message is None:
                silent += 1
                await subscription.ping()
                continue
            silent = 0
            if message["type"] == "subscribe":
                active += 1
                if active == len(handlers):
                    await subscribed()
            elif message["type"] == "message":
                begin_work(message["channel"])
                await handlers[message["channel"]](message["data"])
    raise RedisConnectionError(f"the subscription to {', '.join(handlers)} received no answer")

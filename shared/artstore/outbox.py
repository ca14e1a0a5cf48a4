"""Transactional outbox: messages that are written in the transaction of a change are published after it, at
least once.

Any service may publish any message. The steps: read a batch, drop the changed files from the Redis cache of
the read path, publish, delete the published messages. A crash before the last step publishes them again;
subscribers compare revisions and versions, so that is harmless. While Redis refuses the drops nothing is
published, and the messages wait.
"""

from __future__ import annotations

import asyncio

import asyncpg
import msgspec
from opentelemetry.trace import SpanContext
from prometheus_client import Gauge
from redis.asyncio import Redis

from artstore.catalog.recent import DROP, FLOOR_S, floor_of, keys_of
from artstore.contracts.events import FILES_CHANNEL, FileChanged
from artstore.database import ASYNC_COMMIT, Database
from artstore.logs import get_logger
from artstore.redis import CountedRedis
from artstore.runtime import Runtime
from artstore.tasks import until_tick, wait_or_timeout
from artstore.tracing import MAX_LINKS, current_link, root_span

log = get_logger("artstore.outbox")

BATCH = 500
GATHER_S = 0.01
"""After a wake: what is committed in this time goes along, so that a stream of changes does not pay for each event."""
POLL_EVERY_S = 2.0
"""How often each process looks for messages of crashed processes."""
DROPS_AT_ONCE = 64
"""Files in one script, which runs for about 10 µs each."""
OWN_FOR_S = 1.0
"""Younger messages are left to the process that wrote them."""

_TAKE = """SELECT id, channel, message FROM outbox WHERE created_at <= now() - make_interval(secs => $1::float8)
    ORDER BY id LIMIT $2::integer"""
_DONE = f"""DELETE FROM outbox USING {ASYNC_COMMIT} WHERE id = ANY($1::bigint[]) AND async_commit.level IS NOT NULL"""

_PUBLISH_ALL = "for i = 1, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end"


class Outbox:
    """The relay. `wake()` after a commit publishes at once; without it the next poll does."""

    def __init__(self, runtime: Runtime, database: Database, redis: Redis) -> None:
        self._database, self._redis = database, redis
        self._drop, self._publish = redis.register_script(DROP), redis.register_script(_PUBLISH_ALL)
        self._woken = asyncio.Event()
        self._wakers: list[SpanContext] = []
        self._waiting = Gauge("outbox_batch_messages", "Messages in the last batch", registry=runtime.registry)
        runtime.tasks.forever("outbox", self._relay, pause_s=0.0)

    def wake(self) -> None:
        self._woken.set()
        waker = current_link()
        if waker is not None and len(self._wakers) < MAX_LINKS:
            self._wakers.append(waker)

    async def _relay(self) -> None:
        older_than_s = OWN_FOR_S
        if await wait_or_timeout(self._woken, until_tick(POLL_EVERY_S)):
            older_than_s = 0.0
            await asyncio.sleep(GATHER_S)
        if isinstance(self._redis, CountedRedis):
            await self._redis.wait_until_accepting()
        self._woken.clear()
        while await self._publish_batch(older_than_s) == BATCH:
            pass

    async def _publish_batch(self, older_than_s: float) -> int:
        rows = await self._database.fetch(_TAKE, older_than_s, BATCH)
        self._waiting.set(len(rows))
        if not rows:
            return 0
        wakers, self._wakers = self._wakers, []
        with root_span("outbox.publish", {"artstore.messages": len(rows)}, links=wakers):
            await self._publish_rows(rows)
        return len(rows)

    async def _publish_rows(self, rows: list[asyncpg.Record]) -> None:
        drops = [drop for _, channel, message in rows if channel == FILES_CHANNEL for drop in _drops_of(message)]
        for first in range(0, len(drops), DROPS_AT_ONCE):
            some = drops[first : first + DROPS_AT_ONCE]
            keys = [key for keys, _ in some for key in keys]
            await self._drop(keys, [number for _, floor in some for number in (floor, FLOOR_S)])
        # A command of its own: nothing is published if the drops were refused.
        await self._publish([], [part for _, channel, message in rows for part in (channel, message)])
        await self._database.fetch(_DONE, [row["id"] for row in rows])


def _drops_of(message: str) -> list[tuple[tuple[str, str, str], int]]:
    """The keys and the lowest valid revision of a changed file; none for a new one, which no cache can hold."""
    event = msgspec.json.decode(message, type=FileChanged)
    floor = floor_of(event)
    return [(keys_of(event.file_id), floor)] if floor > 1 else []  # no revision is lower than 1

"""Transactional outbox: messages that are written in the transaction of a change are published after it, at
least once.

Any service may publish any message. The steps: read a batch, drop the changed files from the Redis cache of
the read path, publish, delete the published messages. A crash before the last step publishes them again;
subscribers compare revisions and versions, so that is harmless. While Redis refuses the drops nothing is
published, and the messages wait.
"""

from __future__ import annotations

import asyncio

import msgspec
from prometheus_client import Gauge
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from artstore.catalog.recent import DROP, FLOOR_S, floor_of, keys_of
from artstore.contracts.events import FILES_CHANNEL, FileChanged
from artstore.database import ASYNC_COMMIT, Database
from artstore.logs import get_logger
from artstore.redis import CountedRedis
from artstore.runtime import Runtime
from artstore.tasks import until_tick, wait_or_timeout

log = get_logger("artstore.outbox")

BATCH = 500
GATHER_S = 0.01
"""After a wake: what is committed in this time goes along, so that a stream of changes does not pay for each event."""
POLL_EVERY_S = 2.0
"""How often each process looks for messages of crashed processes."""
OWN_FOR_S = 1.0
"""Younger messages are left to the process that wrote them."""

_TAKE = """SELECT id, channel, message FROM outbox WHERE created_at <= now() - make_interval(secs => $1::float8)
    ORDER BY id LIMIT $2::integer"""
_DONE = f"""DELETE FROM outbox USING {ASYNC_COMMIT} WHERE id = ANY($1::bigint[]) AND async_commit.level IS NOT NULL"""


class Outbox:
    """The relay. `wake()` after a commit publishes at once; without it the next poll does."""

    def __init__(self, runtime: Runtime, database: Database, redis: Redis) -> None:
        self._database, self._redis = database, redis
        self._woken = asyncio.Event()
        self._waiting = Gauge("outbox_batch_messages", "Messages in the last batch", registry=runtime.registry)
        runtime.tasks.forever("outbox", self._relay, pause_s=0.0)

    def wake(self) -> None:
        self._woken.set()

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
        async with self._redis.pipeline(transaction=False) as pipeline:
            for _, channel, message in rows:
                if channel == FILES_CHANNEL:
                    _drop_from_cache(pipeline, message)
            await (
                pipeline.execute()
            )  # separately: in one pipeline the messages would be published although the drops were refused
            for _, channel, message in rows:
                pipeline.publish(channel, message)
            await pipeline.execute()
        await self._database.fetch(_DONE, [row["id"] for row in rows])
        return len(rows)


def _drop_from_cache(pipeline: Pipeline, message: str) -> None:
    event = msgspec.json.decode(message, type=FileChanged)
    floor = floor_of(event)
    if floor > 1:  # no revision is lower than 1
        pipeline.eval(DROP, 3, *keys_of(event.file_id), floor, FLOOR_S)

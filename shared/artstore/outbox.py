"""Messages written with a change are published after it: at least once, whatever happens to Redis or to this process.

Any service may relay any message. Order of events: read a batch, drop the changed files from the read path's Redis level,
publish, delete what was published. A crash before the last publishes once more, which subscribers bear: revisions and
versions decide.
"""

from __future__ import annotations

import asyncio

import msgspec
from prometheus_client import Gauge
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from sqlalchemy import text

from artstore.catalog.recent import DROP, FLOOR_S, floor_key, floor_of, record_key
from artstore.contracts.events import FILES_CHANNEL, FileChanged
from artstore.database import Database
from artstore.logs import get_logger
from artstore.service import Runtime

log = get_logger("artstore.outbox")

BATCH = 500
GATHER_S = 0.01
"""After a kick: what is committed in this time goes along, so that a stream of uploads does not pay for each event."""
FLUSH_WAIT_S = 0.5
"""The longest that an acknowledgement waits for its event: readers that were not told catch up by revision."""
POLL_EVERY_S = 1.0
"""For messages of a process that died before it published them."""

_TAKE = text("SELECT id, channel, message FROM outbox ORDER BY id LIMIT :limit")
_DONE = text(
    """DELETE FROM outbox USING (SELECT set_config('synchronous_commit', 'off', true) AS level) AS loosely
    WHERE id = ANY(:ids) AND loosely.level IS NOT NULL"""
)


class Outbox:
    """The relay. `kick()` after a commit publishes at once; without it the next poll does."""

    def __init__(self, runtime: Runtime, database: Database, redis: Redis) -> None:
        self._database, self._redis = database, redis
        self._kicked = asyncio.Event()
        self._flushes: list[asyncio.Future[None]] = []
        self._waiting = Gauge("outbox_batch_messages", "Messages in the last batch", registry=runtime.registry)
        runtime.tasks.forever("outbox", self._relay, pause_s=0.0)

    def kick(self) -> None:
        self._kicked.set()

    async def flush(self) -> None:
        """Returns once what was committed before the call is published, so that its caller reads what it wrote.

        While Redis or PostgreSQL is away it returns after FLUSH_WAIT_S: the messages wait in the table then.
        """
        published: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushes.append(published)
        self._kicked.set()
        try:
            async with asyncio.timeout(FLUSH_WAIT_S):
                await published
        except TimeoutError:
            log.warning("messages not published yet")

    async def _relay(self) -> None:
        try:
            async with asyncio.timeout(POLL_EVERY_S):
                await self._kicked.wait()
                if not self._flushes:
                    await asyncio.sleep(GATHER_S)
        except TimeoutError:
            pass
        self._kicked.clear()
        flushes, self._flushes = self._flushes, []
        try:
            while await self._publish_batch() == BATCH:
                pass
        finally:
            for published in flushes:
                if not published.done():
                    published.set_result(None)

    async def _publish_batch(self) -> int:
        async with self._database.alone() as connection:
            rows = (await connection.execute(_TAKE, {"limit": BATCH})).all()
        self._waiting.set(len(rows))
        if not rows:
            return 0
        async with self._redis.pipeline(transaction=False) as pipeline:
            for _, channel, message in rows:
                if channel == FILES_CHANNEL:
                    _drop_from_cache(pipeline, message)
                pipeline.publish(channel, message)
            await pipeline.execute()
        async with self._database.alone() as connection:
            await connection.execute(_DONE, {"ids": [row[0] for row in rows]})
        return len(rows)


def _drop_from_cache(pipeline: Pipeline, message: str) -> None:
    event = msgspec.json.decode(message, type=FileChanged)
    floor = floor_of(event)
    if floor > 1:  # below the first revision there is nothing to drop
        pipeline.eval(DROP, 2, record_key(event.file_id), floor_key(event.file_id), floor, FLOOR_S)

"""Readers are told of a change before it is acknowledged: whoever was told 200 or 204 then reads what was written.

The outbox tells of every change too, for as long as it takes; this is the quick way, which also goes while PostgreSQL is away.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable
from typing import cast

import msgspec
from prometheus_client import CollectorRegistry, Counter
from redis.asyncio import Redis
from redis.exceptions import RedisError

from artstore.catalog.recent import DROP, FLOOR_S, floor_of, keys_of
from artstore.contracts.events import FILES_CHANNEL, HEARD_CHANNEL, Change, FileChanged
from artstore.logs import get_logger

log = get_logger("element.telling")

HEARD_WAIT_S = 0.5
"""The longest that an acknowledgement waits for readers. One that hangs costs each change this long."""


class Telling:
    """`result` of the metric: heard by all, `silent` when a reader did not say so in time, `away` when Redis is."""

    def __init__(self, redis: Redis, element_id: str, registry: CollectorRegistry) -> None:
        self._redis, self._element_id = redis, element_id
        self._told = Counter("readers_told_total", "Changes told before acknowledged", ["result"], registry=registry)

    async def tell(self, file_id: str, revision: int, change: Change) -> None:
        """Returns once every query instance has dropped what it remembered, or after HEARD_WAIT_S: the outbox goes on."""
        event = FileChanged(file_id=file_id, revision=revision, change=change, storage_element_id=self._element_id)
        result = "away"
        try:
            async with asyncio.timeout(HEARD_WAIT_S):
                key = f"artstore:heard:{secrets.token_hex(8)}"
                readers = await self._publish(event, key)
                result = "silent"
                for _ in range(readers):
                    await cast(Awaitable[object], self._redis.blpop([key], timeout=HEARD_WAIT_S))
                result = "heard"
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("readers not told in time", file_id=file_id, error=type(error).__name__, result=result)
        self._told.labels(result).inc()

    async def _publish(self, event: FileChanged, key: str) -> int:
        """How many readers will push to `key`. The event goes out after Redis has dropped the file."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.eval(DROP, 3, *keys_of(event.file_id), floor_of(event), FLOOR_S)
            pipeline.publish(FILES_CHANNEL, msgspec.json.encode(event).decode())
            pipeline.publish(HEARD_CHANNEL, key)
            answers = await pipeline.execute()
        return int(answers[-1])

"""Readers are told of a change before it is acknowledged: whoever was told 200 or 204 then reads what was written.

The outbox tells of every change too, for as long as it takes; this is the quick way, which also goes while PostgreSQL is away.
While Redis refuses, a change is acknowledged once no query process believes its caches any more: artstore.redis.TRUST_S after
the first refused write. docs/decisions/0003-read-your-writes.md has the protocol.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import cast

import msgspec
from prometheus_client import CollectorRegistry, Counter
from redis.exceptions import RedisError

from artstore.catalog.recent import DROP, FLOOR_S, UNSETTLED_FLOOR_S, floor_of, keys_of
from artstore.contracts.events import FILES_CHANNEL, HEARD_CHANNEL, Change, FileChanged
from artstore.logs import get_logger
from artstore.redis import TRUST_S, CountedRedis

log = get_logger("element.telling")

HEARD_WAIT_S = 0.5
"""The longest that an acknowledgement waits for readers. One that hangs costs each change this long."""


RETRY_EVERY_S = 0.25


class Telling:
    """`result` of the metric: heard by all, `silent` when a reader did not say so in time, `away` when Redis is."""

    def __init__(
        self, redis: CountedRedis, element_id: str, is_unsettled: Callable[[str], bool], registry: CollectorRegistry
    ) -> None:
        """`is_unsettled`: the catalog could not be told of the file's latest change."""
        self._redis, self._element_id, self._is_unsettled = redis, element_id, is_unsettled
        self._told = Counter("readers_told_total", "Changes told before acknowledged", ["result"], registry=registry)

    async def tell(self, file_id: str, revision: int, change: Change) -> None:
        """Returns once every query instance has dropped what it remembered, or after HEARD_WAIT_S: the outbox goes on.

        With Redis away, once none believes its caches: at most TRUST_S later, and at once when it has been away for so long.
        """
        event = FileChanged(file_id=file_id, revision=revision, change=change, storage_element_id=self._element_id)
        began_s = time.monotonic()
        while (result := await self._try_to_tell(event)) == "away":
            failing_since_s = self._redis.failing_since_s
            if time.monotonic() >= min(began_s, failing_since_s or began_s) + TRUST_S:
                break
            await asyncio.sleep(RETRY_EVERY_S)
        self._told.labels(result).inc()

    async def _try_to_tell(self, event: FileChanged) -> str:
        result = "away"
        try:
            async with asyncio.timeout(HEARD_WAIT_S):
                key = f"artstore:heard:{secrets.token_hex(8)}"
                readers = await self._publish(event, key)
                result = "silent"
                for _ in range(readers):
                    await cast(Awaitable[object], self._redis.blpop([key], timeout=HEARD_WAIT_S))
                return "heard"
        except (RedisError, OSError, TimeoutError) as error:
            log.debug("readers not told in time", file_id=event.file_id, error=type(error).__name__, result=result)
        return result

    async def _publish(self, event: FileChanged, key: str) -> int:
        """How many readers will push to `key`. The event goes out after Redis has dropped the file."""
        floor_s = UNSETTLED_FLOOR_S if self._is_unsettled(event.file_id) else FLOOR_S
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.eval(DROP, 3, *keys_of(event.file_id), floor_of(event), floor_s)
            pipeline.publish(FILES_CHANNEL, msgspec.json.encode(event).decode())
            pipeline.publish(HEARD_CHANNEL, key)
            answers = await pipeline.execute()
        return int(answers[-1])

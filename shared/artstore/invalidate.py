"""Invalidate the readers' caches before a change is acknowledged: a client that got 200 or 204 then reads its
own write.

The outbox publishes every change too, as late as PostgreSQL and Redis allow; this is the fast path, which
also works while PostgreSQL is unavailable. While Redis refuses writes, a change is acknowledged once no query
process trusts its caches any more: artstore.redis.TRUST_S after the first refused write.
docs/decisions/0003-read-your-writes.md has the protocol.
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

from artstore.catalog.recent import ANNOUNCE, FLOOR_S, UNSETTLED_FLOOR_S, floor_of, keys_of
from artstore.contracts.events import ACK_CHANNEL, FILES_CHANNEL, Change, FileChanged
from artstore.logs import get_logger
from artstore.redis import TRUST_S, CountedRedis
from artstore.redis_cluster import HOME

log = get_logger("artstore.invalidate")

ACKNOWLEDGE_WAIT_S = 0.5
"""The longest that a change waits for readers. A reader that hangs delays each change this long."""
RETRY_EVERY_S = 0.25
RESULTS = ("heard", "silent", "away")


class Invalidation:
    """`element_id` is this process, if it is an element. `is_unsettled`: whether the catalog lacks the file's latest change.

    `result` of the metric is `heard` when all readers acknowledged, `silent` when one did not in time, `away`
    when Redis is unavailable.
    """

    def __init__(
        self,
        redis: CountedRedis,
        registry: CollectorRegistry,
        *,
        element_id: str = "",
        is_unsettled: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._redis, self._element_id, self._is_unsettled = redis, element_id, is_unsettled
        self._announce = redis.register_script(ANNOUNCE)
        self._results = Counter(
            "readers_told_total", "Changes by how readers were invalidated first", ["result"], registry=registry
        )
        for result in RESULTS:
            self._results.labels(result)

    async def invalidate(self, file_id: str, revision: int, change: Change, *, element_id: str = "") -> None:
        """Returns once every query instance has dropped the file, or after ACKNOWLEDGE_WAIT_S: the outbox
        follows.

        While Redis is unavailable, returns once no instance trusts its caches: at most TRUST_S later, and at
        once when Redis has been unavailable for that long.
        """
        event = FileChanged(
            file_id=file_id, revision=revision, change=change, storage_element_id=element_id or self._element_id
        )
        began_s = time.monotonic()
        while (result := await self._try(event)) == "away":
            failing_since_s = self._redis.failing_since_s
            if time.monotonic() >= min(began_s, failing_since_s or began_s) + TRUST_S:
                break
            await asyncio.sleep(RETRY_EVERY_S)
        if (moved_s := self._redis.moved_s + TRUST_S - time.monotonic()) > 0:
            await asyncio.sleep(moved_s)  # a reader that does not know yet listens at the node before
        self._results.labels(result).inc()

    async def _try(self, event: FileChanged) -> str:
        result = "away"
        try:
            async with asyncio.timeout(ACKNOWLEDGE_WAIT_S):
                key = f"{HOME}heard:{secrets.token_hex(8)}"
                readers = await self._publish(event, key)
                result = "silent"
                for _ in range(readers):
                    await cast(Awaitable[object], self._redis.blpop([key], timeout=ACKNOWLEDGE_WAIT_S))
                return "heard"
        except (RedisError, OSError, TimeoutError) as error:
            log.debug("readers not invalidated", file_id=event.file_id, error=type(error).__name__, result=result)
        return result

    async def _publish(self, event: FileChanged, key: str) -> int:
        """Returns how many readers will push to `key`. The event is published after Redis has dropped the
        file."""
        floor_s = UNSETTLED_FLOOR_S if self._is_unsettled(event.file_id) else FLOOR_S
        message = msgspec.json.encode(event)
        messages = (FILES_CHANNEL, message, ACK_CHANNEL, key)
        return int(await self._announce(keys_of(event.file_id), (floor_of(event), floor_s, *messages)))

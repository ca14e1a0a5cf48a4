"""Publishes the registry: after each change the whole registry goes to the Redis channel and the snapshot
key.

PostgreSQL is authoritative. Every round compares versions, so an update that Redis could not take is
published when it is back. A version above PostgreSQL's, in Redis or published by this process earlier, shows
that PostgreSQL was rolled back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from redis.asyncio import Redis

from artstore.database import Database
from artstore.logs import get_logger
from artstore.tasks import until_tick, wait_or_timeout

from ..core.redis import publish_if_newer
from .generations import Generations
from .registry import load_snapshot

log = get_logger("admin.publish")

COMPARE_EVERY_S = 2.0
"""Longest time until a lost snapshot key (FLUSHALL, a new Redis, an old dump) is restored."""


class Publisher:
    """`run` is the periodic task. `wake` is called after the commit of a change."""

    def __init__(
        self,
        database: Database,
        redis: Redis,
        generations: Generations,
        changed: asyncio.Event,
        retain: Callable[[Collection[str]], None],
    ) -> None:
        """`retain` is called with the ids of all elements whenever the registry has been read."""
        self._database, self._redis, self._generations = database, redis, generations
        self._changed, self._retain = changed, retain
        self._seen = (0, 0)

    def wake(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """One round: wait for a change or COMPARE_EVERY_S, then publish what is newer than what Redis has."""
        await wait_or_timeout(self._changed, until_tick(COMPARE_EVERY_S))
        # Cleared before the registry is read: a change that arrives now wakes the next round.
        self._changed.clear()
        done = False
        try:
            await self.publish()
            done = True
        finally:
            if not done:
                self._changed.set()  # the next round tries again

    async def publish(self) -> bool:
        """True if Redis had an older registry or none. Raises RedisError, Unavailable."""
        snapshot = await load_snapshot(self._database)
        self._retain({element.id for element in snapshot.elements})
        if snapshot.order < self._seen:
            await self._went_back("this admin", self._seen)
            return False
        self._seen = snapshot.order
        published, kept = await publish_if_newer(self._redis, snapshot)
        if kept > snapshot.order:
            await self._went_back("Redis", kept)
        if published:
            generation, version = snapshot.order
            log.info("registry published", generation=generation, version=version, elements=len(snapshot.elements))
        return published

    async def _went_back(self, witness: str, seen: tuple[int, int]) -> None:
        """Starts a new generation, unless another admin has published meanwhile and PostgreSQL has that
        version by now."""
        reason = f"{witness} has a later version of the registry"
        await self._generations.start(reason, lambda now: now.order < seen, seen)

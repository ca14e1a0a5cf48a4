"""Publishing the registry: after each change the whole of it goes to the channel and to the snapshot key.

PostgreSQL is the truth; what Redis could not take is published as soon as it is back, since every round compares versions.
A version above PostgreSQL's, in Redis or published by this process before, shows that PostgreSQL went back in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from redis.asyncio import Redis

from artstore.database import Database
from artstore.logs import get_logger

from ..core.redis import publish_if_newer
from .generations import Generations
from .registry import load_snapshot

log = get_logger("admin.publish")

COMPARE_EVERY_S = 2.0
"""How long a snapshot key that was lost (FLUSHALL, a new Redis, one with an old dump) stays lost, at most."""


class Publisher:
    """`run` is the task that does the work after the `changed` event, which is set after the commit of a change."""

    def __init__(
        self,
        database: Database,
        redis: Redis,
        generations: Generations,
        changed: asyncio.Event,
        taken: Callable[[Collection[str]], None],
    ) -> None:
        """`taken` is called with the ids of all elements whenever the registry has been read."""
        self._database, self._redis, self._generations = database, redis, generations
        self._changed, self._taken = changed, taken
        self._seen = (0, 0)

    def kick(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """One round: wait for a change or COMPARE_EVERY_S, then publish what is newer than what Redis has."""
        try:
            async with asyncio.timeout(COMPARE_EVERY_S):
                await self._changed.wait()
        except TimeoutError:
            pass
        # Cleared before the registry is read: a change that comes now kicks the next round.
        self._changed.clear()
        done = False
        try:
            await self.publish()
            done = True
        finally:
            if not done:
                self._changed.set()  # not lost: the next round tries again

    async def publish(self) -> bool:
        """Whether Redis had an older registry or none. Raises RedisError, Unavailable."""
        async with self._database.begin() as conn:
            snapshot = await load_snapshot(conn)
        self._taken({element.id for element in snapshot.elements})
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
        """Not so when another admin has published meanwhile: then PostgreSQL has that version by now."""
        reason = f"{witness} knows a later version of the registry"
        await self._generations.start(reason, lambda now: now.order < seen, seen)

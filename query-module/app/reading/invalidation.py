"""Invalidates levels 1 and 2 when another module announces a change, and level 1 whole when announcements may be lost."""

from __future__ import annotations

import msgspec
from redis.asyncio import Redis

from artstore.catalog.recent import floor_of
from artstore.contracts.events import ACK_CHANNEL, ACK_KEY_EXPIRES_S, FILES_CHANNEL, FileChanged
from artstore.logs import get_logger
from artstore.redis import listen
from artstore.tasks import Tasks

from .lookup import Lookup
from .redis import RedisLevel

log = get_logger("query.invalidation")

_PUSH = "redis.call('RPUSH', KEYS[1], 1) return redis.call('EXPIRE', KEYS[1], ARGV[1])"


class Invalidation:
    """The subscription to `files:changed`. While `subscribed` is false, lookups do not trust memory."""

    def __init__(self, redis: Redis, level: RedisLevel, lookup: Lookup, tasks: Tasks) -> None:
        self._redis, self._level, self._lookup = redis, level, lookup
        self._push = redis.register_script(_PUSH)
        tasks.forever("files-changed", self._listen)

    @property
    def subscribed(self) -> bool:
        return self._level.is_subscribed

    async def _listen(self) -> None:
        try:
            handlers = {FILES_CHANNEL: self._invalidate, ACK_CHANNEL: self._acknowledge}
            await listen(self._redis, handlers, subscribed=self._begin)
        finally:
            self._level.note_subscribed(False)
            self._lookup.invalidate_all()

    async def _begin(self) -> None:
        self._lookup.invalidate_all()
        self._level.note_subscribed(True)

    async def _invalidate(self, raw: str) -> None:
        """An error of Redis here ends the subscription, which empties memory, so that no event is lost."""
        try:
            event = msgspec.json.decode(raw, type=FileChanged)
        except msgspec.MsgspecError as error:
            log.warning("change event unreadable", error=str(error))
            self._lookup.invalidate_all()
            return
        floor = floor_of(event)
        self._lookup.invalidate(event.file_id, floor)
        if floor > 1:  # revisions begin at 1
            await self._level.drop(event.file_id, floor)
            # Again, because a lookup in between may have read the old revision from Redis.
            self._lookup.invalidate(event.file_id, floor)

    async def _acknowledge(self, key: str) -> None:
        """The module that changed the file answers its client only after this."""
        await self._push([key], [ACK_KEY_EXPIRES_S])

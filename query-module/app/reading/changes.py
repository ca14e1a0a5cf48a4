"""Change events: what another module changed is dropped here at once, and everything when events may have been missed."""

from __future__ import annotations

import msgspec
from redis.asyncio import Redis

from artstore.catalog.recent import floor_of
from artstore.contracts.events import FILES_CHANNEL, HEARD_CHANNEL, HEARD_KEY_EXPIRES_S, FileChanged
from artstore.logs import get_logger
from artstore.redis import listen
from artstore.tasks import Tasks

from .lookup import Lookup
from .redis import RedisLevel

log = get_logger("query.changes")


class Changes:
    """The subscription to `files:changed`. While `heard` is false, nothing in memory is believed."""

    def __init__(self, redis: Redis, level: RedisLevel, lookup: Lookup, tasks: Tasks) -> None:
        self._redis, self._level, self._lookup = redis, level, lookup
        tasks.forever("files-changed", self._listen)

    @property
    def heard(self) -> bool:
        return self._level.hears_changes

    async def _listen(self) -> None:
        try:
            handlers = {FILES_CHANNEL: self._take, HEARD_CHANNEL: self._confirm}
            await listen(self._redis, handlers, subscribed=self._begin)
        finally:
            self._level.note_subscribed(False)
            self._lookup.forget_all()

    async def _begin(self) -> None:
        self._lookup.forget_all()
        self._level.note_subscribed(True)

    async def _take(self, raw: str) -> None:
        """An error of Redis here ends the subscription, which empties memory: no event is lost quietly."""
        try:
            event = msgspec.json.decode(raw, type=FileChanged)
        except msgspec.MsgspecError as error:
            log.warning("change event unreadable", error=str(error))
            self._lookup.forget_all()
            return
        floor = floor_of(event)
        self._lookup.forget(event.file_id, floor)
        if floor > 1:  # below the first there is nothing to drop
            await self._level.drop(event.file_id, floor)
            # again: a lookup in between may have brought the old revision back from Redis
            self._lookup.forget(event.file_id, floor)

    async def _confirm(self, key: str) -> None:
        """Whoever changed a file waits for this with the acknowledgement."""
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.rpush(key, 1)
            pipeline.expire(key, HEARD_KEY_EXPIRES_S)
            await pipeline.execute()

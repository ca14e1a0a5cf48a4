"""Level 2: the cache in Redis that all query instances share, for an hour, by the scripts of `artstore.catalog.recent`.

Levels 1 and 2 are not trusted while Redis refuses writes, because changes cannot be announced then. The protocol is in
docs/decisions/0003-read-your-writes.md.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from redis.exceptions import RedisError

from artstore.catalog.recent import DROP, EPOCH_KEY, FIND, FLOOR_S, KEEP, keys_of
from artstore.contracts.files import decode
from artstore.errors import REDIS, Unavailable
from artstore.redis import CountedRedis

from .memory import Record

TTL_S = 3600


@dataclass(frozen=True, slots=True)
class RedisEntry:
    """`floor` is the lowest revision that a recent change left valid. `lease` permits `keep` of what is read below."""

    record: Record | None
    floor: int
    lease: str


class RedisLevel:
    """All methods raise Unavailable without Redis."""

    def __init__(self, redis: CountedRedis) -> None:
        self._redis = redis
        self._epoch = ""
        self._subscribed_in: int | None = None
        redis.on_accepted(self._agree_on_epoch)
        self._find = redis.register_script(FIND)
        self._keep = redis.register_script(KEEP)
        self._drop = redis.register_script(DROP)

    @property
    def is_subscribed(self) -> bool:
        """The subscription has lasted since Redis last came back and Redis takes writes, so level 1 is current."""
        return self._redis.takes_writes and self._subscribed_in == self._redis.generation

    def note_subscribed(self, subscribed: bool) -> None:
        self._subscribed_in = self._redis.generation if subscribed else None

    async def _agree_on_epoch(self, returned: bool) -> None:
        """Starts a new epoch after an outage, else joins the current one. Records of older epochs are invalid."""
        fresh = secrets.token_hex(8)
        if returned:
            await self._redis.set(EPOCH_KEY, fresh)
            self._epoch = fresh
            return
        await self._redis.set(EPOCH_KEY, fresh, nx=True)
        self._epoch = str(await self._redis.get(EPOCH_KEY) or fresh)

    async def find(self, file_id: str) -> RedisEntry:
        entry, text = await self._query(file_id, "record")
        if not text:
            return entry
        encoded = text.encode()
        try:
            return RedisEntry(Record(decode(encoded), encoded), entry.floor, entry.lease)
        except ValueError:  # written by a different version of this module
            return await self.lease(file_id)

    async def lease(self, file_id: str) -> RedisEntry:
        """An entry without the record. Must be taken before the levels below are read."""
        return (await self._query(file_id, "lease"))[0]

    async def keep(self, record: Record, lease: str) -> bool:
        """False when a change was announced after the lease."""
        args: list[str | bytes | int] = [record.revision, record.encoded, TTL_S, lease, self._epoch]
        try:
            return bool(await self._keep(keys=keys_of(record.attributes.file_id), args=args))
        except RedisError as error:
            raise _unavailable(error) from error

    async def drop(self, file_id: str, floor: int) -> None:
        """Drops revisions below `floor` and refuses them for FLOOR_S."""
        try:
            await self._drop(keys=keys_of(file_id), args=[floor, FLOOR_S])
        except RedisError as error:
            raise _unavailable(error) from error

    async def _query(self, file_id: str, want: str) -> tuple[RedisEntry, str]:
        if not self._redis.takes_writes:
            raise Unavailable("Redis refuses writes", away=REDIS)
        args: list[str | bytes | int] = [secrets.token_hex(8), FLOOR_S, want, self._epoch]
        try:
            text, floor, lease = await self._find(keys=keys_of(file_id), args=args)
        except RedisError as error:
            raise _unavailable(error) from error
        return RedisEntry(None, int(floor), lease), text


def _unavailable(error: RedisError) -> Unavailable:
    return Unavailable("Redis is unavailable", away=REDIS, reason=type(error).__name__)

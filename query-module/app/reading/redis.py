"""Level 2: what all query instances remember together, in Redis, for an hour. The rules are `artstore.catalog.recent`.

Neither this level nor level 1 is believed while Redis refuses writes: then no change can be announced. `takes_writes` and
`hears_changes` say so, docs/decisions/0003-read-your-writes.md has the protocol.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from redis.exceptions import RedisError

from artstore.catalog.recent import DROP, EPOCH_KEY, FIND, FLOOR_S, KEEP, keys_of
from artstore.contracts.files import decode
from artstore.errors import Unavailable
from artstore.redis import CountedRedis

from .memory import Record

TTL_S = 3600


@dataclass(frozen=True, slots=True)
class Looked:
    """`floor` is the lowest revision that a recent change left good; `lease` lets what is now read below be kept."""

    record: Record | None
    floor: int
    lease: str


class RedisLevel:
    """Every method raises Unavailable when Redis is away."""

    def __init__(self, redis: CountedRedis) -> None:
        self._redis = redis
        self._epoch = ""
        self._subscribed_in: int | None = None
        redis.on_accepted(self._agree_on_epoch)
        self._find = redis.register_script(FIND)
        self._keep = redis.register_script(KEEP)
        self._drop = redis.register_script(DROP)

    @property
    def hears_changes(self) -> bool:
        """The subscription stands since Redis last came back, and Redis takes writes: level 1 is current."""
        return self._redis.takes_writes and self._subscribed_in == self._redis.generation

    def note_subscribed(self, stands: bool) -> None:
        self._subscribed_in = self._redis.generation if stands else None

    async def _agree_on_epoch(self, returned: bool) -> None:
        """A new one after an outage, else the one that all use: records of another epoch are void."""
        fresh = secrets.token_hex(8)
        if returned:
            await self._redis.set(EPOCH_KEY, fresh)
            self._epoch = fresh
            return
        await self._redis.set(EPOCH_KEY, fresh, nx=True)
        self._epoch = str(await self._redis.get(EPOCH_KEY) or fresh)

    async def find(self, file_id: str) -> Looked:
        looked, text = await self._look(file_id, "record")
        if not text:
            return looked
        encoded = text.encode()
        try:
            return Looked(Record(decode(encoded), encoded), looked.floor, looked.lease)
        except ValueError:  # written by another version: the levels below have it whole
            return await self.lease(file_id)

    async def lease(self, file_id: str) -> Looked:
        """To be asked before the levels below are: without the record, whatever it is."""
        return (await self._look(file_id, "lease"))[0]

    async def keep(self, record: Record, lease: str) -> bool:
        """False when a change came between the lease and now."""
        args: list[str | bytes | int] = [record.revision, record.encoded, TTL_S, lease, self._epoch]
        try:
            return bool(await self._keep(keys=keys_of(record.attributes.file_id), args=args))
        except RedisError as error:
            raise _away(error) from error

    async def drop(self, file_id: str, floor: int) -> None:
        """Forget every revision below `floor`, and take none for FLOOR_S."""
        try:
            await self._drop(keys=keys_of(file_id), args=[floor, FLOOR_S])
        except RedisError as error:
            raise _away(error) from error

    async def _look(self, file_id: str, want: str) -> tuple[Looked, str]:
        if not self._redis.takes_writes:
            raise Unavailable("Redis takes no writes", away="redis")
        args: list[str | bytes | int] = [secrets.token_hex(8), FLOOR_S, want, self._epoch]
        try:
            text, floor, lease = await self._find(keys=keys_of(file_id), args=args)
        except RedisError as error:
            raise _away(error) from error
        return Looked(None, int(floor), lease), text


def _away(error: RedisError) -> Unavailable:
    return Unavailable("Redis is away", away="redis", reason=type(error).__name__)

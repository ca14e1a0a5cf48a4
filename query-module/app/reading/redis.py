"""Level 2: what all query instances remember together, in Redis, for an hour. The rules are `artstore.catalog.recent`."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.exceptions import RedisError

from artstore.catalog.recent import DROP, FLOOR_S, KEEP, floor_key, record_key
from artstore.contracts.files import decode
from artstore.errors import Unavailable

from .memory import Record


class RedisLevel:
    """Every method raises Unavailable when Redis is away."""

    def __init__(self, redis: Redis, *, ttl_s: int) -> None:
        self._redis = redis
        self._ttl_s = ttl_s
        self._keep = redis.register_script(KEEP)
        self._drop = redis.register_script(DROP)

    async def find(self, file_id: str) -> Record | None:
        try:
            text: str | None = await self._redis.get(record_key(file_id))  # type: ignore[assignment]  # decode_responses
        except RedisError as error:
            raise _away(error) from error
        if text is None:
            return None
        encoded = text.encode()
        try:
            return Record(decode(encoded), encoded)
        except ValueError:  # written by another version: the levels below have it whole
            return None

    async def keep(self, record: Record) -> None:
        file_id = record.attributes.file_id
        try:
            await self._keep(
                keys=[record_key(file_id), floor_key(file_id)],
                args=[record.revision, record.encoded, self._ttl_s],
            )
        except RedisError as error:
            raise _away(error) from error

    async def drop(self, file_id: str, floor: int) -> None:
        """Forget every revision below `floor`, and take none for FLOOR_S."""
        try:
            await self._drop(keys=[record_key(file_id), floor_key(file_id)], args=[floor, FLOOR_S])
        except RedisError as error:
            raise _away(error) from error


def _away(error: RedisError) -> Unavailable:
    return Unavailable("Redis is away", away="redis", reason=type(error).__name__)

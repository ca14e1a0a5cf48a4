"""Level 2: what all query instances remember together, in Redis, for an hour.

Redis knows no revisions, so two small scripts do: a lower revision never overwrites a higher one, and for a while after a
change nothing below it is taken, so that a reader who was overtaken by the change cannot bring the old state back.
"""

from __future__ import annotations

from redis.asyncio import Redis
from redis.exceptions import RedisError

from artstore.contracts.files import decode
from artstore.errors import Unavailable

from .memory import Record

FLOOR_S = 60
"""How long a change keeps older revisions out: longer than any lookup takes."""

_KEEP = """
local floor = tonumber(redis.call('GET', KEYS[2]) or 0)
local revision = tonumber(ARGV[1])
if revision < floor then return 0 end
local held = redis.call('GET', KEYS[1])
if held then
  local read, record = pcall(cjson.decode, held)
  if read and type(record) == 'table' and (tonumber(record.revision) or 0) > revision then return 0 end
end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""

_DROP = """
local floor = math.max(tonumber(redis.call('GET', KEYS[2]) or 0), tonumber(ARGV[1]))
redis.call('SET', KEYS[2], string.format('%.0f', floor), 'EX', ARGV[2])
local held = redis.call('GET', KEYS[1])
if held then
  local read, record = pcall(cjson.decode, held)
  if not read or type(record) ~= 'table' or (tonumber(record.revision) or 0) < floor then redis.call('DEL', KEYS[1]) end
end
return 1
"""


def record_key(file_id: str) -> str:
    return f"artstore:file:{file_id}"


def floor_key(file_id: str) -> str:
    return f"artstore:file:{file_id}:floor"


class RedisLevel:
    """Every method raises Unavailable when Redis is away."""

    def __init__(self, redis: Redis, *, ttl_s: int) -> None:
        self._redis = redis
        self._ttl_s = ttl_s
        self._keep = redis.register_script(_KEEP)
        self._drop = redis.register_script(_DROP)

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

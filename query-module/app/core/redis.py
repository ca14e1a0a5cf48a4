"""What the query module keeps and hears in Redis. Without Redis it answers from the levels below."""

from __future__ import annotations

from redis.asyncio import Redis

from artstore.service import Runtime

from ..reading.changes import Changes
from ..reading.lookup import Lookup
from ..reading.redis import RedisLevel


def hear_changes(runtime: Runtime, redis: Redis, level: RedisLevel, lookup: Lookup) -> Changes:
    return Changes(redis, level, lookup, runtime.tasks)

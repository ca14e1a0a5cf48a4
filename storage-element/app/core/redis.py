"""What an element wants of Redis: that change events go out. It does nothing else with it."""

from __future__ import annotations

from redis.asyncio import Redis

from artstore.database import Database
from artstore.outbox import Outbox
from artstore.service import Runtime


def open_outbox(runtime: Runtime, database: Database, redis: Redis) -> Outbox:
    """The relay of what this element's transactions wrote; while Redis is away the rows wait."""
    return Outbox(runtime, database, redis)

"""Settings of the query module."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from artstore.config import AdminClientSettings, Count, DatabaseSettings, RedisSettings, Seconds, ServiceSettings


class Settings(ServiceSettings, DatabaseSettings, RedisSettings, AdminClientSettings):
    """The times to live bound how old an answer may be when no change event comes through."""

    discovery_file: Path | None = None
    """Where the last known registry of elements is kept, for a start while Redis and admin are away."""
    storage_elements: str | None = None
    """The registry as JSON, for when nothing else is known yet."""
    cache_memory_entries: Count = 20_000
    """Level 1. An entry takes about 3 KiB."""
    cache_memory_ttl_s: Seconds = 300
    cache_absent_ttl_s: Annotated[float, Field(gt=0, le=5)] = 5
    """How long an id that was not found is not looked for again: no new file is missing for longer."""
    cache_redis_ttl_s: Count = 3600
    """Level 2."""
    cache_catalog_ttl_s: Seconds = 86_400
    """Level 3: how long a row counts after it was last seen on disk."""
    catalog_timeout_s: Seconds = 1.5
    """How long a lookup waits for level 3 before it asks the elements; lists, which have no other way, wait longer."""
    element_answer_timeout_s: Seconds = 7
    """An element that has not begun to send a file by then has failed. An archive behind slow S3 may need longer."""
    element_idle_timeout_s: Seconds = 30
    """An element that stops sending a file for so long has failed."""
    body_idle_timeout_s: Seconds = 30
    """How long a client may take nothing, beyond the time that the minimum rate gives it for what it took."""
    body_min_rate_bytes_per_s: Annotated[int, Field(ge=0)] = 1024
    """A client that reads a file more slowly is cut off."""

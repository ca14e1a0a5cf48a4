"""Settings of the query module."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from artstore.config import AdminClientSettings, Count, DatabaseSettings, RedisSettings, Seconds, ServiceSettings


class Settings(ServiceSettings, DatabaseSettings, RedisSettings, AdminClientSettings):
    """The times to live bound the age of an answer when change events are lost."""

    discovery_file: Path | None = None
    """File that keeps the last known registry of elements, for a start while Redis and admin are unavailable."""
    storage_elements: str | None = None
    """The registry as JSON, used while no other source has answered."""
    cache_memory_entries: Count = 20_000
    """Files remembered in the memory of the process (level 1), about 3 KiB each."""
    cache_memory_ttl_s: Seconds = 300
    """How long an entry of level 1 is used. It bounds the age of an answer while Redis, PostgreSQL and the element
    are all unavailable."""
    catalog_timeout_s: Seconds = 1.5
    """How long a lookup waits for PostgreSQL before it asks the elements."""
    element_answer_timeout_s: Seconds = 7
    """Limit for the head of an element's answer. An archive behind a slow S3 service may need more."""
    element_idle_timeout_s: Seconds = 30
    """An element that stops sending a file for this long counts as failed."""
    body_idle_timeout_s: Seconds = 30
    """How long a client may read nothing, beyond the time that the minimum rate allows for what it has read."""
    body_min_rate_bytes_per_s: Annotated[int, Field(ge=0)] = 1024
    """A client that reads a file more slowly is disconnected; 0 for no minimum."""

"""Settings of the ingester."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from artstore.config import AdminClientSettings, Count, DatabaseSettings, RedisSettings, Seconds, ServiceSettings


class Settings(ServiceSettings, DatabaseSettings, RedisSettings, AdminClientSettings):
    """The database is read to find the element that holds a file, and written for requests with an Idempotency-Key."""

    database_pool_size: Count = 10
    database_max_overflow: Annotated[int, Field(ge=0)] = 5
    query_url: str | None = None
    """Where clients reach query, or the gateway: who reads a file here is sent there."""
    discovery_file: Path | None = None
    """Where the last known registry of elements is kept, for a start while Redis and admin are away."""
    storage_elements: str | None = None
    """The registry as JSON, for when nothing else is known yet."""
    max_file_size_bytes: Count = 5 * 2**40
    body_idle_timeout_s: Seconds = 30
    """A client that sends nothing for so long is cut off."""
    body_min_rate_bytes_per_s: Annotated[int, Field(ge=0)] = 1024
    """A client that sends slower is cut off."""
    element_idle_timeout_s: Seconds = 30
    """An element that takes nothing and answers nothing for so long has failed."""
    element_call_timeout_s: Seconds = 20
    """The whole of a call to an element that is not a stream: a small upload, an update, a delete."""
    idempotency_lease_s: Seconds = 10
    """How long a request under an Idempotency-Key waits for one that has died before it goes on in its place."""

"""Settings of the ingester."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from artstore.config import AdminClientSettings, Count, DatabaseSettings, RedisSettings, Seconds, ServiceSettings


class Settings(ServiceSettings, DatabaseSettings, RedisSettings, AdminClientSettings):
    """The database is read to locate files, and written for requests with an Idempotency-Key."""

    database_pool_size: Count = 10
    database_max_overflow: Annotated[int, Field(ge=0)] = 5
    query_url: str | None = None
    """Address at which clients reach query or the gateway; a read of a file sent to the ingester is redirected
    there."""
    discovery_file: Path | None = None
    """File that keeps the last known registry of elements, for a start while Redis and admin are unavailable."""
    storage_elements: str | None = None
    """The registry as JSON, used while no other source has answered."""
    max_file_size_bytes: Count = 5 * 2**40
    """Largest file that is accepted."""
    body_idle_timeout_s: Seconds = 30
    """A client that sends nothing for this long is disconnected."""
    body_min_rate_bytes_per_s: Annotated[int, Field(ge=0)] = 1024
    """A client that sends more slowly is disconnected; 0 for no minimum."""
    element_idle_timeout_s: Seconds = 30
    """An element that neither accepts nor answers anything for this long counts as failed."""
    element_call_timeout_s: Seconds = 20
    """Limit for a call to an element without a stream: a small upload, an update, a delete. Above 5, since an
    outage of Redis delays a change by 3 s."""
    idempotency_lease_s: Seconds = 10
    """How long a request waits for an earlier one with the same Idempotency-Key whose server died."""

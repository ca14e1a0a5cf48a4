"""Settings of the ingester."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from artstore.config import Count, DiscoverySettings, ModuleSettings, Seconds, UploadSettings


class Settings(ModuleSettings, DiscoverySettings, UploadSettings):
    """The database is read to locate files, and written for requests with an Idempotency-Key."""

    database_pool_size: Count = 10
    database_max_overflow: Annotated[int, Field(ge=0)] = 5
    query_url: str | None = None
    """Address at which clients reach query or the gateway; a read of a file sent to the ingester is
    redirected there."""
    element_idle_timeout_s: Seconds = 30
    """An element that neither accepts nor answers anything for this long counts as failed."""
    element_call_timeout_s: Seconds = 20
    """Limit for a call to an element without a stream: a small upload, an update, a delete. Above 5, since an
    outage of Redis delays a change by 3 s."""
    idempotency_lease_s: Seconds = 10
    """How long a request waits for an earlier one with the same Idempotency-Key whose server died."""

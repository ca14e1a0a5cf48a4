"""Settings of a storage element."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from artstore.config import AdminClientSettings, Count, DatabaseSettings, RedisSettings, Seconds, ServiceSettings
from artstore.contracts.elements import DEFAULT_PRIORITY, Mode

Bytes = Annotated[int, Field(ge=0)]


class Settings(ServiceSettings, DatabaseSettings, RedisSettings, AdminClientSettings):
    """One element, one root."""

    database_pool_size: Count = 8
    database_max_overflow: Annotated[int, Field(ge=0)] = 4
    storage_element_id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    storage_mode: Mode
    storage_mode_force: bool = False
    """Take STORAGE_MODE even if it is further back than the mode kept on disk. For an operator's hand, once."""
    storage_backend: Literal["local"] = "local"
    storage_root: Path
    storage_priority: Annotated[int, Field(ge=0)] = DEFAULT_PRIORITY
    """Elements with a lower one are filled first."""
    element_url: str
    """Where the other modules reach this element."""
    storage_quota_bytes: Annotated[int, Field(gt=0)] | None = None
    """For an element that shares its disk; none, the whole disk."""
    storage_reserve_bytes: Bytes = 256 << 20
    """Never filled by puts: deletes and the log have room."""
    storage_reserve_percent: Annotated[float, Field(ge=0, le=50)] = 1.0
    storage_reserve_inodes: Annotated[int, Field(ge=0)] = 1024
    storage_wal_segment_bytes: Annotated[int, Field(ge=1 << 20)] = 32 << 20
    storage_wal_max_segments: Annotated[int, Field(ge=3)] = 16
    storage_small_file_bytes: Annotated[int, Field(ge=0, le=256 << 10)] = 64 << 10
    """Files up to here ride in the log's frame."""
    max_file_size_bytes: Count = 5 << 40
    body_idle_timeout_s: Seconds = 30
    body_min_rate_bytes_per_s: Annotated[int, Field(ge=0)] = 1024
    saga_lease_s: Seconds = 300
    """As at admin: how long an upload that nobody has heard of may still be committed."""
    storage_verify_bytes_per_s: Bytes = 20 << 20
    """How fast files are read again to compare their hashes; 0: as fast as the disk gives them."""
    storage_verify_every_s: Annotated[float, Field(ge=0)] = 30 * 86400
    """From one verification of all files to the next; 0: only when asked to."""
    storage_sweep_grace_s: Seconds = 86400
    """How old halves of files and temps without an owner are before they are swept."""
    storage_sweep_dry_run: bool = False
    """Only report what would be swept."""

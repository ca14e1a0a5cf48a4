"""Settings of a storage element."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from artstore.config import AdminClientSettings, Count, DatabaseSettings, RedisSettings, Seconds, ServiceSettings
from artstore.contracts.elements import ANNOUNCE_EVERY_S, DEFAULT_PRIORITY, Mode

S3_NEEDED = ("s3_endpoint_url", "s3_bucket", "s3_access_key_id", "s3_secret_access_key")

Bytes = Annotated[int, Field(ge=0)]


class Settings(ServiceSettings, DatabaseSettings, RedisSettings, AdminClientSettings):
    """One element, one root."""

    database_pool_size: Count = 8
    database_max_overflow: Annotated[int, Field(ge=0)] = 4
    storage_element_id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    storage_mode: Mode
    storage_mode_force: bool = False
    """Take STORAGE_MODE even if it is further back than the mode kept on disk. For an operator's hand, once."""
    storage_backend: Literal["local", "s3"] = "local"
    storage_root: Path
    """The files; with s3 only the log, the bodies on their way to S3, and element.json."""
    storage_priority: Annotated[int, Field(ge=0)] = DEFAULT_PRIORITY
    """Elements with a lower one are filled first."""
    element_url: str
    """Where the other modules reach this element."""
    element_announce_every_s: Seconds = ANNOUNCE_EVERY_S
    """Three missed ones make ELEMENT_AWAY_AFTER_S at admin."""
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
    s3_endpoint_url: Annotated[str, Field(pattern=r"^https?://[^/?#]+$")] | None = None
    s3_bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")] | None = None
    """Made at the start if it is not there."""
    s3_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")] | None = None
    """This element's alone; its id by default."""
    s3_access_key_id: SecretStr | None = None
    s3_secret_access_key: SecretStr | None = None
    s3_region: str = "us-east-1"
    s3_timeout_s: Seconds = 30
    """For one request: one part of an upload, one piece of a download."""
    s3_connect_timeout_s: Seconds = 3
    s3_part_bytes: Annotated[int, Field(ge=5 << 20, le=1 << 30)] = 8 << 20
    """Of a multipart upload. An upload holds about S3_PARTS_AT_ONCE + 1 of them in memory."""
    s3_parts_at_once: Annotated[int, Field(ge=1, le=16)] = 3
    s3_take_over: bool = False
    """Take the prefix from another STORAGE_ROOT that is lost. For an operator's hand, once; rebuild after it."""
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
    """How old halves of files, temps and uploads to S3 without an owner are before they are swept."""
    storage_sweep_dry_run: bool = False
    """Only report what would be swept."""

    @model_validator(mode="after")
    def _s3_is_whole(self) -> Self:
        missing = [name.upper() for name in S3_NEEDED if getattr(self, name) is None]
        if self.storage_backend == "s3" and missing:
            raise ValueError(f"STORAGE_BACKEND=s3 needs {', '.join(missing)}")
        return self

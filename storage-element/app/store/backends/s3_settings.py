"""Where a bucket is and how long to wait for it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class S3Settings:
    """`prefix` is one element's alone: two elements may share a bucket, never a prefix."""

    endpoint_url: str
    bucket: str
    prefix: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str = "us-east-1"
    timeout_s: float = 30.0
    """For one request, and so for one part of an upload or a download."""
    connect_timeout_s: float = 3.0
    retries: int = 2
    """Of one request that may be repeated, within `retry_for_s`."""
    retry_for_s: float = 10.0
    part_bytes: int = 8 << 20
    """Of a multipart upload; S3 allows 10 000 of them, larger files get larger parts."""
    parts_at_once: int = 3
    """An upload holds about this number of parts and one more in memory."""

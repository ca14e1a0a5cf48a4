"""Settings of a storage element."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from artstore.config import Count, ModuleSettings, PublicUrl, ReadAuditSettings, Seconds, UploadSettings
from artstore.contracts.elements import ANNOUNCE_EVERY_S, DEFAULT_PRIORITY, Mode

S3_NEEDED = ("s3_endpoint_url", "s3_bucket", "s3_access_key_id", "s3_secret_access_key")

Bytes = Annotated[int, Field(ge=0)]


class Settings(ModuleSettings, UploadSettings, ReadAuditSettings):
    """One element, one root."""

    database_pool_size: Count = 8
    database_max_overflow: Annotated[int, Field(ge=0)] = 4
    storage_element_id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    """Name of the element, for instance `se-01`. It must not change while the root holds files."""
    storage_mode: Mode
    """Mode at the start. A mode further along than the one on disk is taken; one further back is refused."""
    storage_mode_force: bool = False
    """Take STORAGE_MODE even if it is further back than the mode on disk. For one start only."""
    storage_backend: Literal["local", "s3"] = "local"
    """The place of the files: STORAGE_ROOT or an S3 bucket."""
    storage_root: Path
    """Folder of the files. With S3 it holds the log, bodies on their way to S3, and `element.json`."""
    storage_priority: Annotated[int, Field(ge=0)] = DEFAULT_PRIORITY
    """Elements with a lower number are filled first."""
    element_url: str
    """Address at which the other modules reach this element."""
    element_public_url: PublicUrl | None = None
    """Address at which clients reach this element. Signed links of its permanent files then lead straight here: nothing but
    `/api/links/` needs to be reachable at this address. Without it they lead to query."""
    element_public_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """A second port, which answers signed links and nothing else, for the address in ELEMENT_PUBLIC_URL."""
    element_announce_every_s: Seconds = ANNOUNCE_EVERY_S
    """Interval between reports to admin. Three missed reports reach the default of ELEMENT_AWAY_AFTER_S."""
    storage_quota_bytes: Annotated[int, Field(gt=0)] | None = None
    """Space that the element may use when it shares its disk. Without it: the whole disk."""
    storage_reserve_bytes: Bytes | None = None
    """Free space that uploads never use, so that deletes and the log always work. Without it: 1 % of the
    disk, at least 256 MiB and at most 10 GiB."""
    storage_wal_segment_bytes: Annotated[int, Field(ge=1 << 20)] = 32 << 20
    """Size of one segment of the write-ahead log; at most 16 segments exist."""
    s3_endpoint_url: Annotated[str, Field(pattern=r"^https?://[^/?#]+$")] | None = None
    """Address of the S3 service. The four settings up to the secret key are required with `s3`."""
    s3_bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")] | None = None
    """Bucket; created at the start if it is missing."""
    s3_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")] | None = None
    """Prefix that belongs to this element alone; by default its id."""
    s3_access_key_id: SecretStr | None = None
    """Access key of the S3 service."""
    s3_secret_access_key: SecretStr | None = None
    """Secret key of the S3 service."""
    s3_region: str = "us-east-1"
    """Region of the S3 service."""
    s3_timeout_s: Seconds = 30
    """Limit for one request: one part of an upload, one piece of a download."""
    s3_take_over: bool = False
    """Take the prefix from another STORAGE_ROOT that is lost. For one start only; rebuild after it."""
    saga_lease_s: Seconds = 300
    """How long an upload without a confirmation may still be committed. The same value as at admin."""
    storage_verify_bytes_per_s: Bytes = 20 << 20
    """Rate at which stored files are read again to compare their hashes; 0 for no limit."""
    storage_verify_every_s: Annotated[float, Field(ge=0)] = 30 * 86400
    """Interval between verifications of all files; 0: only on request."""
    storage_sweep_grace_s: Seconds = 86400
    """Age at which half files, temporary files and unfinished S3 uploads without an owner are removed."""
    storage_upload_ttl_s: Annotated[float, Field(gt=0, le=6 * 86400)] = 86400
    """How long a resumable upload is kept after its last PATCH, and the record of a finished one. At most six days: admin
    forgets finished sagas after seven."""
    storage_sweep_dry_run: bool = False
    """Report what would be removed, and remove nothing."""

    @model_validator(mode="after")
    def _s3_is_whole(self) -> Self:
        missing = [name.upper() for name in S3_NEEDED if getattr(self, name) is None]
        if self.storage_backend == "s3" and missing:
            raise ValueError(f"STORAGE_BACKEND=s3 needs {', '.join(missing)}")
        return self

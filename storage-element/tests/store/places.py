"""Places that hold files: the local disk, and a separate prefix in a real S3."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from app.store.backends.base import Backend
from app.store.backends.local import LocalBackend
from app.store.backends.s3 import S3Backend
from app.store.backends.s3_claim import Claim
from app.store.backends.s3_uploads import S3Settings
from app.store.catalog import Catalog
from app.store.open import StoreSettings, locked_root, open_store
from app.store.paths import Paths
from app.store.store import Store
from app.store.wal.ring import WalLimits
from artstore.clock import Clock
from artstore.errors import Unavailable
from artstore.testing.services import S3Server

from .support import TEST_RESERVE, RememberingCatalog

Place = Callable[[Paths], Backend]
"""Returns the same place at each call, with the files of the earlier calls."""

BUCKET = "tests"
CLAIM_TRIES = 5
"""The first write to a new SeaweedFS on a busy machine may take longer than the timeout of one claim."""
PART_BYTES = 5 << 20
"""The smallest part that S3 accepts, except for the last one."""


def on_disk(paths: Paths) -> Backend:
    return LocalBackend(paths)


def in_s3(settings: S3Settings, *, element_id: str = "se-01") -> Place:
    def place(paths: Paths) -> S3Backend:
        backend = S3Backend(paths, settings)
        claim = Claim(backend, paths, element_id, take_over=False)
        for _ in range(CLAIM_TRIES):
            try:
                claim.make()
                break
            except Unavailable:
                continue
        return backend

    return place


def s3_settings(server: S3Server, prefix: str | None = None) -> S3Settings:
    return S3Settings(
        endpoint_url=server.endpoint_url,
        bucket=BUCKET,
        prefix=prefix or f"se-{secrets.token_hex(6)}",
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
        part_bytes=PART_BYTES,
        timeout_s=5,
        connect_timeout_s=1,
        retries=1,
        retry_for_s=2,
    )


@asynccontextmanager
async def opened_at(
    root: Path, place: Place, catalog: Catalog | None = None, *, segment_bytes: int = 1 << 20
) -> AsyncIterator[Store]:
    settings = StoreSettings(
        element_id="se-01", root=str(root), reserve=TEST_RESERVE, wal=WalLimits(segment_bytes=segment_bytes)
    )
    async with (
        locked_root(str(root)) as paths,
        open_store(paths, settings, catalog or RememberingCatalog(), Clock(), place(paths)) as store,
    ):
        yield store

"""The bucket of an element with files in S3: its claim, its health check, and the removal of unfinished
uploads."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from artstore.errors import Unavailable
from artstore.logs import get_logger
from artstore.runtime import Runtime

from ..store.backends.s3 import S3Backend
from ..store.backends.s3_claim import ANSWER_TIMEOUT_S, Claim
from ..store.backends.s3_uploads import S3Settings
from ..store.paths import Paths
from ..store.store import Store
from ..upkeep.rows import Rows
from .config import Settings

log = get_logger("element.s3")

CHECK_EVERY_S = 2.0
SWEEP_EVERY_S = 3600.0
CHECK_TIMEOUT_S = ANSWER_TIMEOUT_S + 1


@dataclass(frozen=True, slots=True)
class Bucket:
    backend: S3Backend
    claim: Claim

    def watch(self, settings: Settings, runtime: Runtime, store: Store, rows: Rows) -> None:
        """Start the health check and the sweep of unfinished uploads."""
        logged = False

        async def check() -> None:
            """In a separate thread: those of the store may all be waiting for S3."""
            nonlocal logged
            try:
                await asyncio.to_thread(self.claim.check, store.disk_health)
            except Unavailable as error:
                if not logged:
                    log.warning("S3 does not answer", error=error.detail, cause=str(error.__cause__)[:500])
                logged = True
                raise
            logged = False

        async def sweep() -> None:
            before = await rows.agreed_now(runtime.clock) - timedelta(seconds=settings.storage_sweep_grace_s)
            aborted = await store.in_thread(self.backend.abort_unfinished, before, store.receiving)
            if aborted:
                log.warning("unfinished uploads aborted", uploads=aborted)

        runtime.health.add("s3", check, every_s=CHECK_EVERY_S, timeout_s=CHECK_TIMEOUT_S)
        runtime.tasks.every("s3 uploads", SWEEP_EVERY_S, sweep)


async def open_bucket(settings: Settings, paths: Paths) -> Bucket:
    """If S3 does not answer, the claim is made later, and until then every call raises Unavailable. Raises
    RootRefused."""
    backend = S3Backend(paths, s3_settings(settings))
    claim = await asyncio.to_thread(
        partial(Claim, backend, paths, settings.storage_element_id, take_over=settings.s3_take_over)
    )
    try:
        await asyncio.to_thread(claim.make)
    except Unavailable as error:
        log.warning("S3 does not answer at the start; retrying", error=error.detail)
    return Bucket(backend, claim)


def s3_settings(settings: Settings) -> S3Settings:
    given = (settings.s3_endpoint_url, settings.s3_bucket, settings.s3_access_key_id, settings.s3_secret_access_key)
    endpoint_url, bucket, access_key_id, secret_access_key = given
    if not (endpoint_url and bucket and access_key_id and secret_access_key):
        raise ValueError("unreachable: the validation of the settings requires all four S3 settings")
    return S3Settings(
        endpoint_url=endpoint_url,
        bucket=bucket,
        prefix=settings.s3_prefix or settings.storage_element_id,
        access_key_id=access_key_id.get_secret_value(),
        secret_access_key=secret_access_key.get_secret_value(),
        region=settings.s3_region,
        timeout_s=settings.s3_timeout_s,
    )

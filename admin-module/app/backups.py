"""The age of the newest complete backup as a metric. Only a backup that ended well adds a row to `backups`."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy import text

from artstore.database import Database

_NEWEST = text("SELECT extract(epoch FROM max(began_at)) FROM backups")


class BackupAge:
    def __init__(self, database: Database, registry: CollectorRegistry) -> None:
        self._database = database
        self._last = Gauge(
            "backup_last_success_timestamp_seconds",
            "When the newest complete backup began, in seconds since 1970; 0: there is none",
            registry=registry,
        )
        self._last.set(math.nan)  # until PostgreSQL has answered, the age is unknown and no alert fires

    async def measure(self) -> None:
        async with self._database.autocommit() as conn:
            self._last.set(float(await conn.scalar(_NEWEST) or 0))

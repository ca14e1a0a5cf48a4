"""Keeps the saga table clean: undoes orphaned pending files, purges old sagas, updates metrics."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy import text

from artstore.contracts.sagas import SagaKind
from artstore.database import Database
from artstore.logs import get_logger

from ..elements.generations import Generations
from ..purge import BOTH_CLOCKS, purge, purge_statement
from .saga import KEEP_FINISHED_S, SagaEvent, SagaState, accepting

log = get_logger("admin.sagas")

FOUND_AT_ONCE = 1024
"""Pending files in one statement: those of a batch whose ingester died. The worker takes them on in smaller groups."""
FOUND_AFTER_LEASES = 2
"""A pending file without a live saga counts as orphaned when it is this many leases old."""

# A saga older than the catalog's generation may have been committed in the lost history, so its element is
# asked.
_FOUND = text(
    """INSERT INTO sagas AS kept (saga_id, kind, state, file_id, storage_element_id, owner, due_at, reason)
    SELECT saga_id, 'upload', CASE WHEN saga_id < CAST(:first_saga_id AS uuid) THEN 'begun' ELSE 'compensating' END,
        file_id, storage_element_id, owner, now(), 'found_pending' FROM files
    WHERE state = 'pending' AND saga_id IS NOT NULL AND checked_at < now() - make_interval(secs => :older_s)
        AND storage_element_id = ANY(CAST(:reconciled AS text[]))
    ORDER BY saga_id LIMIT :most
    ON CONFLICT (saga_id) DO UPDATE SET state = 'compensating', due_at = now(), reason = excluded.reason,
        storage_element_id = excluded.storage_element_id, attempts = 0, updated_at = now()
    WHERE kept.state = ANY(CAST(:accepting AS text[])) AND kept.file_id = excluded.file_id RETURNING saga_id"""
)
_PURGE = purge_statement(
    "sagas", "updated_at", f"due_at IS NULL AND updated_at < {BOTH_CLOCKS} - make_interval(secs => :keep_s)"
)
_OPEN = text(
    """SELECT kind, state, count(*) AS number, greatest(0, extract(epoch FROM now() - min(begun_at)))::float8 AS oldest_s
    FROM sagas WHERE due_at IS NOT NULL GROUP BY kind, state"""
)


class SagaMaintenance:
    """`wake_worker` is called when there is work for the saga worker."""

    def __init__(
        self,
        database: Database,
        generations: Generations,
        registry: CollectorRegistry,
        lease_s: float,
        wake_worker: Callable[[], None],
    ) -> None:
        self._database, self._generations, self._lease_s, self._wake_worker = (
            database,
            generations,
            lease_s,
            wake_worker,
        )
        self._open = Gauge("sagas_open", "Sagas that are not finished", ["kind", "state"], registry=registry)
        self._oldest = Gauge(
            "saga_oldest_open_seconds",
            "Age of the oldest saga that waits for an element; running uploads do not count",
            ["kind"],
            registry=registry,
        )

    async def update_metrics(self) -> None:
        """Every admin exports the same numbers."""
        async with self._database.begin() as conn:
            rows = (await conn.execute(_OPEN)).all()
        numbers = {(row.kind, row.state): row for row in rows}
        for kind in SagaKind:
            for state in SagaState:
                row = numbers.get((kind.value, state.value))
                self._open.labels(kind.value, state.value).set(row.number if row else 0)
            ages_s = [row.oldest_s for row in rows if row.kind == kind and row.state != SagaState.BEGUN]
            self._oldest.labels(kind.value).set(max(ages_s, default=0))

    async def undo_orphans(self) -> int:
        """Starts the undo of pending files whose saga is unknown or already undone. Returns how many were
        found."""
        async with self._database.begin() as conn:
            current = await self._generations.load(conn)
            values = {
                "older_s": self._lease_s * FOUND_AFTER_LEASES,
                "most": FOUND_AT_ONCE,
                "accepting": accepting(SagaEvent.FOUND, SagaState.COMPENSATING),
                "first_saga_id": current.first_saga_id,
                "reconciled": await self._generations.find_reconciled(conn, current),
            }
            found = len((await conn.execute(_FOUND, values)).all())
        if found:
            log.warning("pending files without a saga", found=found)
            self._wake_worker()
        return found

    async def purge(self, now: datetime) -> int:
        """Delete finished sagas older than KEEP_FINISHED_S by PostgreSQL's clock and ours: one wrong clock
        deletes nothing."""
        return await purge(self._database, _PURGE, {"keep_s": KEEP_FINISHED_S, "now": now})

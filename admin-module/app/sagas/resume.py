"""Compensation by whichever admin comes first: expired leases, aborts, and what was found without a saga.

A saga that is due is claimed in one short transaction, which also sets when it is due again; then the element is asked to
remove the file; then the saga is closed in a second one. A crash anywhere in between only means that it is done again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore import points
from artstore.catalog.write import forget
from artstore.contracts.events import FileChanged
from artstore.contracts.storage import SAGA_HEADER
from artstore.database import Database
from artstore.errors import ArtStoreError, Unavailable
from artstore.logs import get_logger
from artstore.peers import Peers
from artstore.tracing import span

from .saga import SagaEvent, SagaState, accepting

log = get_logger("admin.sagas")

CLAIM_AT_ONCE = 64
CALLS_AT_ONCE = 8
RETRY_FIRST_S = 2.0
RETRY_MAX_S = 300.0
"""The wait doubles with each failed attempt up to this; an element that comes back is served at once (`wake`)."""
ROUND_EVERY_S = 1.0
FOUND_AFTER_LEASES = 2
"""A pending file is taken for lost when it is this many leases old and nobody holds its saga."""
PURGE_AT_ONCE = 10_000
MAX_ERROR_CHARS = 300

_CLAIM = text(
    """WITH due AS (
        SELECT saga_id FROM sagas WHERE due_at <= now() ORDER BY due_at LIMIT :claims FOR UPDATE SKIP LOCKED)
    UPDATE sagas SET
        state = CASE WHEN state = ANY(CAST(:expiring AS text[])) THEN 'compensating' ELSE state END,
        reason = CASE WHEN state = ANY(CAST(:expiring AS text[])) THEN 'lease_expired' ELSE reason END,
        attempts = attempts + 1, updated_at = now(),
        due_at = now() + make_interval(secs => least(:retry_max_s, :call_s + :retry_first_s * 2 ^ least(attempts, 20)))
    FROM due WHERE sagas.saga_id = due.saga_id
    RETURNING sagas.saga_id::text, state, file_id::text, storage_element_id, abandoned, attempts"""
)
_URLS = text(
    "SELECT element_id, url FROM storage_elements WHERE element_id = ANY(CAST(:element_ids AS text[])) AND status = 'online'"
)
_CLOSE = text(
    """UPDATE sagas SET state = CASE WHEN state = 'compensating' THEN 'compensated' ELSE state END, abandoned = '{}',
        due_at = NULL, last_error = '', updated_at = now()
    WHERE saga_id = CAST(:saga_id AS uuid) AND state = :state AND attempts = :attempts RETURNING saga_id"""
)
_FAILED = text("UPDATE sagas SET last_error = :error WHERE saga_id = CAST(:saga_id AS uuid)")
_WAKE = text(
    """UPDATE sagas SET due_at = now() WHERE due_at > now() AND state <> 'begun'
    AND (storage_element_id = :element_id OR :element_id = ANY(abandoned))"""
)
_FOUND = text(
    """INSERT INTO sagas AS kept (saga_id, kind, state, file_id, storage_element_id, owner, due_at, reason)
    SELECT saga_id, 'upload', 'compensating', file_id, storage_element_id, owner, now(), 'found_pending' FROM files
    WHERE state = 'pending' AND saga_id IS NOT NULL AND checked_at < now() - make_interval(secs => :older_s)
    ORDER BY saga_id LIMIT :claims
    ON CONFLICT (saga_id) DO UPDATE SET state = 'compensating', due_at = now(), reason = excluded.reason,
        storage_element_id = excluded.storage_element_id, attempts = 0, updated_at = now()
    WHERE kept.state = ANY(CAST(:accepting AS text[])) AND kept.file_id = excluded.file_id RETURNING saga_id"""
)
_PURGE = text(
    """DELETE FROM sagas WHERE saga_id IN (SELECT saga_id FROM sagas
    WHERE due_at IS NULL AND updated_at < now() - make_interval(secs => :keep_s) LIMIT :purge)"""
)
_OPEN = text("SELECT state, count(*) AS number FROM sagas WHERE due_at IS NOT NULL GROUP BY state")


@dataclass(frozen=True, slots=True)
class Claimed:
    saga_id: str
    state: SagaState
    file_id: str
    element_ids: tuple[str, ...]
    """Where something of it may lie: for a committed saga only the elements that were given up for another."""
    attempts: int


class Compensation:
    """The background half of the sagas. One per process; all processes share the work."""

    def __init__(
        self, database: Database, peers: Peers, registry: CollectorRegistry, *, lease_s: float, call_timeout_s: float
    ) -> None:
        self._database, self._peers = database, peers
        self._lease_s, self._call_timeout_s = lease_s, call_timeout_s
        self._kicked = asyncio.Event()
        self._undone = Counter(
            "saga_compensations_total", "Compensations tried at elements", ["result"], registry=registry
        )
        self._open = Gauge("sagas_open", "Sagas that are not finished, by state", ["state"], registry=registry)

    def kick(self) -> None:
        self._kicked.set()

    async def run(self) -> None:
        """One round: wait for an abort or ROUND_EVERY_S, then undo what is due."""
        try:
            async with asyncio.timeout(ROUND_EVERY_S):
                await self._kicked.wait()
        except TimeoutError:
            pass
        self._kicked.clear()
        while len(await self.undo_due()) == CLAIM_AT_ONCE:
            pass

    async def undo_due(self) -> list[Claimed]:
        """Claims what is due and tries each once. What failed is due again after its backoff."""
        # 1. claim: durable, so that no commit can follow once the element is asked to remove the file
        async with self._database.begin() as conn:
            claimed, urls = await self._claim(conn)
        if claimed:
            points.hit("admin.saga_claimed")
        # 2. ask the elements, outside any transaction, and close each saga as soon as its elements have answered
        limit = asyncio.Semaphore(CALLS_AT_ONCE)

        async def undo(saga: Claimed) -> None:
            async with limit:
                await self._undo(saga, urls)

        async with asyncio.TaskGroup() as group:
            for saga in claimed:
                group.create_task(undo(saga))
        return claimed

    async def _claim(self, conn: AsyncConnection) -> tuple[list[Claimed], dict[str, str]]:
        values = {
            "claims": CLAIM_AT_ONCE,
            "expiring": accepting(SagaEvent.LEASE_EXPIRED, SagaState.COMPENSATING),
            "retry_first_s": RETRY_FIRST_S,
            "retry_max_s": RETRY_MAX_S,
            "call_s": self._call_timeout_s,
        }
        claimed = []
        for row in await conn.execute(_CLAIM, values):
            state = SagaState(row.state)
            used = () if state is SagaState.COMMITTED else (row.storage_element_id,)
            elements = (*row.abandoned, *used)
            claimed.append(Claimed(row.saga_id, state, row.file_id, elements, row.attempts))
        wanted = {element_id for saga in claimed for element_id in saga.element_ids}
        if not wanted:
            return claimed, {}
        rows = await conn.execute(_URLS, {"element_ids": sorted(wanted)})
        return claimed, {row.element_id: row.url for row in rows}

    async def _undo(self, saga: Claimed, urls: dict[str, str]) -> None:
        try:
            with span("saga.undo", saga_id=saga.saga_id):
                for element_id in saga.element_ids:
                    await self._remove(saga, element_id, urls)
                points.hit("admin.saga_undone")
                await self._close(saga)
        except ArtStoreError as error:
            self._undone.labels("failed").inc()
            log.warning(
                "saga not undone",
                saga_id=saga.saga_id,
                file_id=saga.file_id,
                attempts=saga.attempts,
                error=error.detail,
            )
            await self._note_failure(saga, error.detail)
            return
        self._undone.labels("ok").inc()
        log.info("saga undone", saga_id=saga.saga_id, file_id=saga.file_id, state=saga.state.value)

    async def _remove(self, saga: Claimed, element_id: str, urls: dict[str, str]) -> None:
        """The element removes the file if this saga put it there; it answers the same when nothing is there."""
        if element_id not in urls:
            raise Unavailable(f"{element_id} is away")
        peer = self._peers.to(element_id, urls[element_id])
        path = f"/api/files/{saga.file_id}"
        await peer.call("DELETE", path, headers={SAGA_HEADER: saga.saga_id}, timeout_s=self._call_timeout_s)

    async def _close(self, saga: Claimed) -> None:
        values = {"saga_id": saga.saga_id, "state": saga.state.value, "attempts": saga.attempts}
        async with self._database.begin() as conn:
            closed = (await conn.execute(_CLOSE, values)).first()
            # Not closed: another admin has claimed it since and does the rest. A committed saga's row is another element's.
            if closed is not None and saga.state is SagaState.COMPENSATING:
                await forget(conn, _gone(saga))

    async def _note_failure(self, saga: Claimed, why: str) -> None:
        async with self._database.begin() as conn:
            await conn.execute(_FAILED, {"saga_id": saga.saga_id, "error": why[:MAX_ERROR_CHARS]})

    async def sweep(self) -> int:
        """Pending files whose saga is unknown or was undone before they came; returns how many were found."""
        values = {
            "older_s": self._lease_s * FOUND_AFTER_LEASES,
            "claims": CLAIM_AT_ONCE,
            "accepting": accepting(SagaEvent.FOUND, SagaState.COMPENSATING),
        }
        async with self._database.begin() as conn:
            found = len((await conn.execute(_FOUND, values)).all())
            counts = {row.state: row.number for row in await conn.execute(_OPEN)}
        for state in SagaState:
            self._open.labels(state.value).set(counts.get(state.value, 0))
        if found:
            log.warning("pending files without a saga", found=found)
            self.kick()
        return found

    async def purge(self, keep_s: float) -> int:
        """Drops finished sagas older than `keep_s` seconds."""
        async with self._database.begin() as conn:
            return (await conn.execute(_PURGE, {"keep_s": keep_s, "purge": PURGE_AT_ONCE})).rowcount


async def wake(conn: AsyncConnection, element_id: str) -> None:
    """The element is back: what waits for it is due now."""
    await conn.execute(_WAKE, {"element_id": element_id})


def _gone(saga: Claimed) -> Sequence[FileChanged]:
    return [
        FileChanged(file_id=saga.file_id, revision=1, change="delete", storage_element_id=element_id)
        for element_id in saga.element_ids
    ]

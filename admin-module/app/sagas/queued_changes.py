"""Applies a queued change: read the file, ask the element, then close the saga. A refusal, or a new mode, is recorded in
the audit log in the same transaction; the element records the change of a file that it makes.

A crash at any point leaves the saga queued, and the next attempt sees from the file what was already applied.
A worker that was merely paused finds its claim gone or the revision changed, so it cannot apply an old change
on top of a newer one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import orjson
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import text

from artstore.audit.event import Event
from artstore.contracts.elements import Mode
from artstore.contracts.files import Changes
from artstore.contracts.sagas import SagaKind
from artstore.contracts.storage import ACCOUNT_HEADER, read_attributes
from artstore.database import Database
from artstore.errors import ArtStoreError, NotFound, RevisionMismatch, Unavailable
from artstore.failpoints import failpoint
from artstore.logs import get_logger
from artstore.peers.client import Peer

from ..audit.chain import Auditor
from ..elements.registry import lock_registry, record_mode
from .claim import ClaimedSaga, require_held
from .decision import ChangeStep, is_final, next_step
from .move import Mover
from .saga import TRANSITIONS, SagaEvent, SagaState

log = get_logger("admin.changes")

MAX_READS = 3
"""Reads of one attempt, while other callers change the file between the read and the change."""

_CLOSE = text(
    """UPDATE sagas SET state = :state, problem = CAST(:problem AS jsonb), due_at = NULL, last_error = '', updated_at = now()
    WHERE saga_id = CAST(:saga_id AS uuid) AND state = 'queued' AND attempts = :attempts RETURNING saga_id"""
)


class QueuedChanges:
    """One per process; all processes share the work."""

    def __init__(
        self,
        database: Database,
        auditor: Auditor,
        registry: CollectorRegistry,
        mode_changed: Callable[[], None],
        call_timeout_s: float,
        mover: Mover,
    ) -> None:
        self._database, self._auditor, self._mover = database, auditor, mover
        self._mode_changed, self._call_timeout_s = mode_changed, call_timeout_s
        self._applied = Counter(
            "saga_changes_total", "Attempts to apply queued changes at elements", ["kind", "result"], registry=registry
        )
        for kind in (SagaKind.UPDATE, SagaKind.DELETE, SagaKind.MODE, SagaKind.MOVE):
            for result in ("ok", "refused", "failed"):
                self._applied.labels(kind.value, result)  # from 0, so that the first one is an increase

    async def apply(self, saga: ClaimedSaga, peer: Peer) -> None:
        """Raises the error of an element that could not apply the change now. A final refusal closes the saga
        as refused."""
        refusal: ArtStoreError | None = None
        try:
            await self._send(saga, peer)
        except ArtStoreError as error:
            if not is_final(error):
                self._applied.labels(saga.kind.value, "failed").inc()
                raise
            refusal = error
        failpoint("admin.change_made")
        if await self._close(saga, refusal):
            self._applied.labels(saga.kind.value, "refused" if refusal else "ok").inc()
            result = "refused" if refusal is not None else "applied"
            log.info(f"queued change {result}", saga_id=saga.saga_id, kind=saga.kind.value, attempts=saga.attempts)

    async def _send(self, saga: ClaimedSaga, peer: Peer) -> None:
        if saga.kind is SagaKind.UPDATE:
            await self._update(saga, peer)
        elif saga.kind is SagaKind.DELETE:
            await self._delete(saga, peer)
        elif saga.kind is SagaKind.MOVE:
            await self._mover.move(saga, peer)
        else:
            body = orjson.dumps({"mode": saga.wanted["mode"]})
            await peer.call("POST", "/api/element/mode", body=body, timeout_s=self._call_timeout_s)

    async def _update(self, saga: ClaimedSaga, peer: Peer) -> None:
        path, body = f"/api/files/{saga.file_id}", str(saga.wanted["changes"]).encode()
        wanted, if_revisions = msgspec.json.decode(body, type=Changes), saga.wanted["if_revisions"]
        for _ in range(MAX_READS):
            answer = await peer.call("GET", path, timeout_s=self._call_timeout_s)
            now = read_attributes(answer.body, peer.name)
            step = next_step(now, wanted, if_revisions)
            if step is ChangeStep.ALREADY_APPLIED:
                return
            if step is ChangeStep.REFUSE:
                raise RevisionMismatch(f"the file is at revision {now.revision}", revision=now.revision)
            failpoint("admin.change_looked")
            await require_held(self._database, saga)
            failpoint("admin.change_held")
            headers = {"if-match": f'"{now.revision}"', ACCOUNT_HEADER: saga.account}
            try:
                await peer.call("PATCH", path, body=body, headers=headers, timeout_s=self._call_timeout_s)
                return
            except RevisionMismatch:
                continue
        raise Unavailable("the file is being changed concurrently", away=peer.name)

    async def _delete(self, saga: ClaimedSaga, peer: Peer) -> None:
        """A file that does not exist counts as deleted, because file ids are never reused."""
        tags = ", ".join(f'"{revision}"' for revision in saga.wanted["if_revisions"] or ())
        headers = {ACCOUNT_HEADER: saga.account} | ({"if-match": tags} if tags else {})
        try:
            path = f"/api/files/{saga.file_id}"
            await peer.call("DELETE", path, headers=headers, timeout_s=self._call_timeout_s)
        except NotFound:
            return

    async def _close(self, saga: ClaimedSaga, refusal: ArtStoreError | None) -> bool:
        """False when another admin has claimed the saga since: it will find the change applied, and close the
        saga."""
        state = TRANSITIONS[SagaState.QUEUED, SagaEvent.DONE if refusal is None else SagaEvent.REFUSE]
        values = {
            "saga_id": saga.saga_id,
            "attempts": saga.attempts,
            "state": state.value,
            "problem": None if refusal is None else refusal.to_wire().decode(),
        }
        async with self._database.begin() as conn:
            if saga.kind is SagaKind.MODE:
                await lock_registry(conn)
            if (await conn.execute(_CLOSE, values)).first() is None:
                return False
            if refusal is None and saga.kind is SagaKind.MODE:
                await record_mode(conn, saga.storage_element_id, Mode(saga.wanted["mode"]))
            if refusal is not None or saga.kind in (SagaKind.MODE, SagaKind.MOVE):  # an element records other changes
                await self._auditor.record(conn, _event(saga, refusal))
            failpoint("admin.change_closing")
        if saga.kind is SagaKind.MODE:
            self._mode_changed()
        return True


def _event(saga: ClaimedSaga, refusal: ArtStoreError | None) -> Event:
    metadata: dict[str, Any] = {"saga_id": saga.saga_id, "storage_element": saga.storage_element_id}
    if saga.kind is SagaKind.MODE:
        metadata["mode"] = saga.wanted["mode"]
    if refusal is not None:
        metadata["code"] = refusal.code
    action = "element:mode" if saga.kind is SagaKind.MODE else f"file:{saga.kind.value}"
    resource = saga.file_id or saga.storage_element_id
    return Event(action, saga.account, resource, "success" if refusal is None else "failure", metadata)

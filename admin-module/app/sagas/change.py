"""Making a queued change: look, ask the element, then close the saga and record it in the audit log in one transaction.

A crash anywhere leaves the saga queued, and the next try finds by its look what was made already. Who was only paused finds its
claim lost, or the file past the revision that it has seen: it makes nothing a second time over what came after.
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
from artstore.contracts.files import Changes, decode
from artstore.contracts.sagas import SagaKind
from artstore.database import Database
from artstore.errors import ArtStoreError, BadGateway, NotFound, RevisionMismatch, Unavailable
from artstore.failpoints import failpoint
from artstore.logs import get_logger
from artstore.peers.client import Peer

from ..audit.chain import Auditor
from ..elements.registry import lock_registry, note_mode
from .claim import Claimed, require_held
from .decide import Step, is_final, next_step
from .saga import TRANSITIONS, SagaEvent, SagaState

log = get_logger("admin.changes")

LOOKS_AT_ONCE = 3
"""Of one try, when somebody else changes the file between the look and the change."""

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
        *,
        mode_changed: Callable[[], None],
        call_timeout_s: float,
    ) -> None:
        self._database, self._auditor = database, auditor
        self._mode_changed, self._call_timeout_s = mode_changed, call_timeout_s
        self._made = Counter(
            "saga_changes_total", "Queued changes tried at elements", ["kind", "result"], registry=registry
        )
        for kind in (SagaKind.UPDATE, SagaKind.DELETE, SagaKind.MODE):
            for result in ("ok", "refused", "failed"):
                self._made.labels(kind.value, result)  # from 0, so that the first one is an increase

    async def make(self, saga: Claimed, peer: Peer) -> None:
        """Raises what the element could not do now; what it will never do closes the saga as refused."""
        refusal: ArtStoreError | None = None
        try:
            await self._ask(saga, peer)
        except ArtStoreError as error:
            if not is_final(error):
                self._made.labels(saga.kind.value, "failed").inc()
                raise
            refusal = error
        failpoint("admin.change_made")
        if await self._close(saga, refusal):
            self._made.labels(saga.kind.value, "refused" if refusal else "ok").inc()
            result = "refused" if refusal is not None else "made"
            log.info(f"queued change {result}", saga_id=saga.saga_id, kind=saga.kind.value, attempts=saga.attempts)

    async def _ask(self, saga: Claimed, peer: Peer) -> None:
        if saga.kind is SagaKind.UPDATE:
            await self._update(saga, peer)
        elif saga.kind is SagaKind.DELETE:
            await self._delete(saga, peer)
        else:
            body = orjson.dumps({"mode": saga.wanted["mode"]})
            await peer.call("POST", "/api/element/mode", body=body, timeout_s=self._call_timeout_s)

    async def _update(self, saga: Claimed, peer: Peer) -> None:
        path, body = f"/api/files/{saga.file_id}", str(saga.wanted["changes"]).encode()
        wanted, if_revisions = msgspec.json.decode(body, type=Changes), saga.wanted["if_revisions"]
        for _ in range(LOOKS_AT_ONCE):
            answer = await peer.call("GET", path, timeout_s=self._call_timeout_s)
            try:
                now = decode(answer.body)
            except ValueError as error:
                raise BadGateway(f"{peer.name}'s attributes cannot be read: {error}") from error
            step = next_step(now, wanted, if_revisions)
            if step is Step.MADE:
                return
            if step is Step.REFUSE:
                raise RevisionMismatch(f"the file is at revision {now.revision}", revision=now.revision)
            failpoint("admin.change_looked")
            await require_held(self._database, saga)
            failpoint("admin.change_held")
            headers = {"if-match": f'"{now.revision}"'}
            try:
                await peer.call("PATCH", path, body=body, headers=headers, timeout_s=self._call_timeout_s)
                return
            except RevisionMismatch:
                continue
        raise Unavailable("other requests change the file at the same time", away=peer.name)

    async def _delete(self, saga: Claimed, peer: Peer) -> None:
        """What is not there is deleted: an id is never given out twice."""
        tags = ", ".join(f'"{revision}"' for revision in saga.wanted["if_revisions"] or ())
        headers = {"if-match": tags} if tags else {}
        try:
            path = f"/api/files/{saga.file_id}"
            await peer.call("DELETE", path, headers=headers, timeout_s=self._call_timeout_s)
        except NotFound:
            return

    async def _close(self, saga: Claimed, refusal: ArtStoreError | None) -> bool:
        """False when another admin has claimed it since: that one will find the change made, and close it."""
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
                await note_mode(conn, saga.storage_element_id, Mode(saga.wanted["mode"]))
            await self._auditor.record(conn, _event(saga, refusal))
        if saga.kind is SagaKind.MODE:
            self._mode_changed()
        return True


def _event(saga: Claimed, refusal: ArtStoreError | None) -> Event:
    resource = f"files/{saga.file_id}" if saga.file_id else f"storage-elements/{saga.storage_element_id}"
    metadata: dict[str, Any] = {"saga_id": saga.saga_id}
    if saga.kind is SagaKind.MODE:
        metadata["mode"] = saga.wanted["mode"]
    if refusal is not None:
        metadata["code"] = refusal.code
    action = "element.mode" if saga.kind is SagaKind.MODE else f"file.{saga.kind.value}"
    return Event(action, saga.owner, resource, "ok" if refusal is None else "failed", metadata)

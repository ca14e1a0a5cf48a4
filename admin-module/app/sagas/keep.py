"""Uploads whose outcome the catalog has lost: admin asks the element for the file, and a file that exists
becomes available.

Applies to sagas that began before the catalog's present generation, because the lost history may have
committed them, and to sagas whose file the element holds as acknowledged.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from artstore.audit.event import Event
from artstore.catalog.write import FileEntry, upsert_files
from artstore.contracts.files import Attributes, encode
from artstore.contracts.idempotency import uploaded
from artstore.contracts.storage import read_attributes
from artstore.database import Database
from artstore.errors import NotFound, Quarantined
from artstore.failpoints import failpoint
from artstore.logs import get_logger
from artstore.peers.client import Peer

from ..audit.chain import SERVICE, Auditor
from .claim import ClaimedSaga
from .client_ids import mark_used
from .idempotency import keep_answer
from .saga import TRANSITIONS, SagaEvent, SagaState

log = get_logger("admin.sagas")

RESTORED = "kept_after_restore"
CONFIRMED = "kept_as_confirmed"

_CLOSE = text(
    """UPDATE sagas SET state = :after, reason = :reason, due_at = NULL, last_error = '', updated_at = now()
    WHERE saga_id = CAST(:saga_id AS uuid) AND state = :state AND attempts = :attempts RETURNING saga_id"""
)
_EXPIRE = text(
    """UPDATE sagas SET state = :after, reason = 'lease_expired', due_at = now(), updated_at = now()
    WHERE saga_id = CAST(:saga_id AS uuid) AND state = :state AND attempts = :attempts RETURNING saga_id"""
)


class Keeper:
    """One per process."""

    def __init__(self, database: Database, auditor: Auditor, call_timeout_s: float) -> None:
        self._database, self._auditor, self._call_timeout_s = database, auditor, call_timeout_s

    async def keep_or_expire(self, saga: ClaimedSaga, peer: Peer, reason: str) -> bool:
        """Keep the file if the element has it. Returns whether it has. Raises the element's error; then
        nothing has changed.

        If the file does not exist, a saga that is still `begun` becomes `compensating`. That is durable
        before the element is asked to remove late data, so that no commit can follow.
        """
        attributes = await self._find(saga, peer)
        failpoint("admin.kept_file_seen")
        if attributes is not None:
            await self._keep(saga, attributes, reason)
        elif saga.state is SagaState.BEGUN:
            values = _values(saga, SagaEvent.LEASE_EXPIRED)
            async with self._database.begin() as conn:
                await conn.execute(_EXPIRE, values)
        return attributes is not None

    async def _find(self, saga: ClaimedSaga, peer: Peer) -> Attributes | None:
        try:
            answer = await peer.call("GET", f"/api/files/{saga.file_id}", timeout_s=self._call_timeout_s)
        except (NotFound, Quarantined):
            return None
        return read_attributes(answer.body, peer.name)

    async def _keep(self, saga: ClaimedSaga, attributes: Attributes, reason: str) -> None:
        """One transaction. After a crash before its commit, the saga is claimed again and the element asked
        again."""
        async with self._database.begin() as conn:
            closed = await conn.execute(_CLOSE, {**_values(saga, SagaEvent.KEEP), "reason": reason})
            if closed.first() is None:
                return  # committed in the meantime, or claimed by another admin
            await upsert_files(conn, [FileEntry(attributes, "put")])
            await mark_used(conn, saga.file_id)
            await keep_answer(conn, saga.saga_id, uploaded(attributes.file_id, encode(attributes)))
            metadata = {
                "saga_id": saga.saga_id,
                "storage_element": saga.storage_element_id,
                "file_size": attributes.size_bytes,
                "reason": reason,
            }
            await self._auditor.record(conn, Event("file:keep", SERVICE, attributes.file_id, metadata=metadata))
        log.warning("upload kept", saga_id=saga.saga_id, file_id=saga.file_id, reason=reason)


def _values(saga: ClaimedSaga, event: SagaEvent) -> dict[str, Any]:
    return {
        "saga_id": saga.saga_id,
        "state": saga.state.value,
        "attempts": saga.attempts,
        "after": TRANSITIONS[saga.state, event].value,
    }

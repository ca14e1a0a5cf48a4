"""Undoes an upload: its elements remove what the saga has put, then one transaction closes the saga and
deletes its catalog row.

Undo runs in reverse order. The element tried last is asked first (it removes attr.json, then the data), then
the earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import text

from artstore.catalog.write import delete_files
from artstore.contracts.events import FileChanged
from artstore.contracts.storage import CONFIRMED_REASON, SAGA_HEADER
from artstore.database import Database
from artstore.errors import ArtStoreError, Conflict, Unavailable
from artstore.failpoints import failpoint
from artstore.peers.session import Peers

from .claim import ClaimedSaga
from .saga import SagaState

_CLOSE = text(
    """UPDATE sagas SET state = CASE WHEN state = 'compensating' THEN 'compensated' ELSE state END, abandoned = '{}',
        due_at = NULL, last_error = '', updated_at = now()
    WHERE saga_id = CAST(:saga_id AS uuid) AND state = :state AND attempts = :attempts RETURNING saga_id"""
)


class HeldAsConfirmed(Conflict):
    """The element holds the file as acknowledged, so it refuses to remove it for this saga."""

    def __init__(self, element_id: str, refusal: Conflict) -> None:
        super().__init__(f"{element_id}: {refusal.detail}", **refusal.fields)
        self.element_id = element_id


def elements_to_ask(saga: ClaimedSaga) -> tuple[str, ...]:
    """The elements that may hold data of the upload, last tried first. For a committed upload only the
    abandoned ones."""
    used = () if saga.state is SagaState.COMMITTED else (saga.storage_element_id,)
    return (*used, *reversed(saga.abandoned))


async def undo(
    database: Database, peers: Peers, saga: ClaimedSaga, urls: Mapping[str, str], call_timeout_s: float
) -> None:
    """Raises the last error after all elements have been asked, so that one unavailable element does not
    block the others.

    Raises HeldAsConfirmed when the file's present element keeps it. `urls`: the elements that may be
    asked."""
    failed: ArtStoreError | None = None
    for element_id in elements_to_ask(saga):
        try:
            await _remove(peers, saga, element_id, urls, call_timeout_s)
        except HeldAsConfirmed as error:
            # On an abandoned element it is only a leftover, which an operator has to remove.
            if saga.state is SagaState.COMPENSATING and element_id == saga.storage_element_id:
                failed = error
        except ArtStoreError as error:
            failed = error
    if failed is not None:
        raise failed
    failpoint("admin.saga_undone")
    values = {"saga_id": saga.saga_id, "state": saga.state.value, "attempts": saga.attempts}
    async with database.begin() as conn:
        closed = (await conn.execute(_CLOSE, values)).first()
        # Not closed: another admin has claimed the saga since. A committed saga's row belongs to its present
        # element.
        if closed is not None and saga.state is SagaState.COMPENSATING:
            await delete_files(conn, _gone(saga))


async def _remove(
    peers: Peers, saga: ClaimedSaga, element_id: str, urls: Mapping[str, str], call_timeout_s: float
) -> None:
    """The element removes the file if this saga has put it there. It answers the same when there is no
    file."""
    if element_id not in urls:
        raise Unavailable(f"{element_id} is unavailable, or has not reconciled with this catalog yet", away=element_id)
    peer = peers.to(element_id, urls[element_id])
    headers = {SAGA_HEADER: saga.saga_id}
    try:
        await peer.call("DELETE", f"/api/files/{saga.file_id}", headers=headers, timeout_s=call_timeout_s)
    except Conflict as refusal:
        if refusal.fields.get("reason") == CONFIRMED_REASON:
            raise HeldAsConfirmed(element_id, refusal) from refusal
        raise


def _gone(saga: ClaimedSaga) -> Sequence[FileChanged]:
    return [
        FileChanged(file_id=str(saga.file_id), revision=1, change="delete", storage_element_id=element_id)
        for element_id in elements_to_ask(saga)
    ]

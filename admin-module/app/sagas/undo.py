"""Undoing an upload: its elements are asked to remove what its saga put, then the saga is closed and its row forgotten.

The steps of an upload are taken back in reverse: the element tried last is asked first (it removes attr.json, then the
bytes), then the ones before it, then the catalog row goes, in the transaction that closes the saga.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import text

from artstore.catalog.write import forget
from artstore.contracts.events import FileChanged
from artstore.contracts.storage import CONFIRMED_REASON, SAGA_HEADER
from artstore.database import Database
from artstore.errors import ArtStoreError, Conflict, Unavailable
from artstore.failpoints import failpoint
from artstore.peers.session import Peers

from .claim import Claimed
from .saga import SagaState

_CLOSE = text(
    """UPDATE sagas SET state = CASE WHEN state = 'compensating' THEN 'compensated' ELSE state END, abandoned = '{}',
        due_at = NULL, last_error = '', updated_at = now()
    WHERE saga_id = CAST(:saga_id AS uuid) AND state = :state AND attempts = :attempts RETURNING saga_id"""
)


class HeldAsConfirmed(Conflict):
    """The element does not hold the file as this saga's uncommitted one: it removes nothing on the catalog's word."""

    def __init__(self, element_id: str, refusal: Conflict) -> None:
        super().__init__(f"{element_id}: {refusal.detail}", **refusal.fields)
        self.element_id = element_id


def elements_to_ask(saga: Claimed) -> tuple[str, ...]:
    """Where something of the upload may lie, last tried first; of a committed one only what was given up for another."""
    used = () if saga.state is SagaState.COMMITTED else (saga.storage_element_id,)
    return (*used, *reversed(saga.abandoned))


async def undo(database: Database, peers: Peers, saga: Claimed, urls: Mapping[str, str], call_timeout_s: float) -> None:
    """Raises the last error of an element after all have been asked: one that is away does not hold up the others.
    HeldAsConfirmed when the element that holds the file keeps it. `urls`: of the elements that may be asked."""
    failed: ArtStoreError | None = None
    for element_id in elements_to_ask(saga):
        try:
            await _remove(peers, saga, element_id, urls, call_timeout_s)
        except HeldAsConfirmed as error:
            # Of an element that was left for another one it is only a leftover, which stays for a person.
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
        # Not closed: another admin has claimed it since and does the rest. A committed saga's row is another element's.
        if closed is not None and saga.state is SagaState.COMPENSATING:
            await forget(conn, _gone(saga))


async def _remove(peers: Peers, saga: Claimed, element_id: str, urls: Mapping[str, str], call_timeout_s: float) -> None:
    """The element removes the file if this saga put it there; it answers the same when nothing is there."""
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


def _gone(saga: Claimed) -> Sequence[FileChanged]:
    return [
        FileChanged(file_id=str(saga.file_id), revision=1, change="delete", storage_element_id=element_id)
        for element_id in elements_to_ask(saga)
    ]

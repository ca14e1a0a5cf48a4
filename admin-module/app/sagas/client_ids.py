"""Uploads under ids that clients made: one row in `claimed_ids` per id, for ever, decides who may put the file.

A claim begins the saga before any element hears of the id, durably, and only while nothing of an earlier upload under the id
can be anywhere. So unlike other uploads its commit and its abort need the row of the saga. docs/decisions/0014 has the crash
table.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.catalog.tables import AVAILABLE
from artstore.catalog.write import FileEntry, notify, upsert_files
from artstore.contracts.events import FILES_CHANNEL, FileChanged
from artstore.contracts.files import encode
from artstore.contracts.idempotency import uploaded
from artstore.contracts.sagas import UploadSaga
from artstore.database import Database
from artstore.errors import ArtStoreError, Conflict, RevisionMismatch, Unavailable
from artstore.failpoints import failpoint

from ..elements.generations import Generations
from .idempotency import keep_answer, require_key
from .saga import SagaState
from .upload import Commit

CLAIM_LEASE_S = 30.0
"""Shorter than other leases: after a crash of the ingester no other upload gets the id before its end."""
RETRY_AFTER_S = 1

# The update changes nothing; it locks the row, so that claims of one id follow each other.
_LOCK = text(
    """INSERT INTO claimed_ids AS kept (file_id, saga_id) VALUES (CAST(:file_id AS uuid), CAST(:saga_id AS uuid))
    ON CONFLICT (file_id) DO UPDATE SET saga_id = kept.saga_id RETURNING saga_id::text, used"""
)
_FIND = text(
    """SELECT (SELECT state FROM files WHERE file_id = CAST(:file_id AS uuid)) AS file_state,
        (SELECT state FROM sagas WHERE saga_id = CAST(:holder AS uuid)) AS saga_state,
        EXISTS (SELECT FROM storage_elements, registry WHERE storage_elements.generation < registry.generation) AS behind"""
)
_TAKE = text(
    "UPDATE claimed_ids SET saga_id = CAST(:saga_id AS uuid) WHERE file_id = CAST(:file_id AS uuid) AND NOT used"
)
_BEGIN = text(
    """INSERT INTO sagas AS kept (saga_id, kind, state, file_id, storage_element_id, owner, due_at)
    VALUES (CAST(:saga_id AS uuid), 'upload', 'begun', CAST(:file_id AS uuid), :storage_element_id, :owner,
            now() + make_interval(secs => :lease_s))
    ON CONFLICT (saga_id) DO UPDATE SET due_at = excluded.due_at, updated_at = now()
    WHERE kept.state = 'begun' AND kept.file_id = excluded.file_id
        AND kept.storage_element_id = excluded.storage_element_id
    RETURNING saga_id"""
)
_COMMIT = text(
    """UPDATE sagas SET state = 'committed', due_at = NULL, updated_at = now()
    WHERE saga_id = CAST(:saga_id AS uuid) AND file_id = CAST(:file_id AS uuid) AND state = 'begun' RETURNING saga_id"""
)
_STATE = text(
    "SELECT state FROM sagas WHERE saga_id = CAST(:saga_id AS uuid) AND file_id = CAST(:file_id AS uuid) FOR UPDATE"
)
_USE = text("UPDATE claimed_ids SET used = true WHERE file_id = CAST(:file_id AS uuid)")
_ABORT = text(
    """UPDATE sagas SET state = 'compensating', due_at = now(), updated_at = now(), reason = :reason
    WHERE saga_id = CAST(:saga_id AS uuid) AND state = 'begun'"""
)


class ClaimDecision(enum.Enum):
    GRANTED = "granted"
    EXISTS = "exists"
    """The file is available."""
    DELETED = "deleted"
    """The id belonged to a file, and ids are never used again."""
    IN_PROGRESS = "in_progress"
    """Another upload under the id is running or being undone."""
    UNKNOWN = "unknown"
    """The catalog may lack a file that an element has."""


@dataclass(frozen=True, slots=True)
class Found:
    """The state of an id in the database. `own`: the asking saga holds its claim."""

    own: bool
    used: bool = False
    file_state: str | None = None
    saga_state: str | None = None
    """The state of the saga that holds the claim; None when that is new, or was purged."""
    behind: bool = False
    """An element has not reconciled with this catalog."""


def decide(found: Found) -> ClaimDecision:
    if found.file_state == AVAILABLE:
        return ClaimDecision.EXISTS
    if found.used or found.saga_state == SagaState.COMMITTED:
        return ClaimDecision.DELETED
    if found.own and found.saga_state == SagaState.BEGUN:
        return ClaimDecision.GRANTED  # a renewal: a pending row is this upload's
    if found.file_state is not None or found.saga_state in (SagaState.BEGUN, SagaState.COMPENSATING):
        return ClaimDecision.IN_PROGRESS
    return ClaimDecision.UNKNOWN if found.behind else ClaimDecision.GRANTED


class ClientIds:
    """One per process. `undo` wakes the saga worker, `publish` the relay of events."""

    def __init__(
        self,
        database: Database,
        generations: Generations,
        lease_s: float,
        undo: Callable[[], None],
        publish: Callable[[], None],
    ) -> None:
        self._database, self._generations, self._undo, self._publish = database, generations, undo, publish
        self._lease_s = min(lease_s, CLAIM_LEASE_S)

    async def claim(self, saga: UploadSaga) -> float:
        """Begins the saga, or renews its lease, which is returned in seconds. Durable: from now on no other upload gets the
        id. Raises RevisionMismatch (the file exists), Conflict, Unavailable."""
        ids = {"file_id": saga.file_id, "saga_id": saga.saga_id}
        async with self._database.begin() as conn:
            if (await self._generations.load(conn)).is_other_database:
                raise _error(ClaimDecision.UNKNOWN)
            held = (await conn.execute(_LOCK, ids)).one()
            row = (await conn.execute(_FIND, {"file_id": saga.file_id, "holder": held.saga_id})).one()
            own = held.saga_id == saga.saga_id
            decision = decide(Found(own, held.used, row.file_state, row.saga_state, row.behind))
            if decision is not ClaimDecision.GRANTED:
                raise _error(decision)  # rolls back
            await conn.execute(_TAKE, ids)
            values: dict[str, Any] = {**msgspec.structs.asdict(saga), "lease_s": self._lease_s}
            if (await conn.execute(_BEGIN, values)).first() is None:
                raise _error(ClaimDecision.IN_PROGRESS)  # this saga was given up
        failpoint("admin.id_claimed")
        return self._lease_s

    async def commit(self, commit: Commit) -> None:
        """Durable on return: the file is in the catalog, and readers will drop "not found". Raises Conflict."""
        attributes = commit.attributes
        ids = {"file_id": attributes.file_id, "saga_id": commit.saga_id}
        async with self._database.begin() as conn:
            if commit.keyed:
                await require_key(conn, commit.saga_id)
            if (await conn.execute(_COMMIT, ids)).first() is None:
                state = (await conn.execute(_STATE, ids)).scalar_one_or_none()
                if state == SagaState.COMMITTED:
                    return  # a repeat
                raise Conflict(f"the saga is {state or 'unknown'}", state=state or "unknown")
            await upsert_files(conn, [FileEntry(attributes, "put")])
            await conn.execute(_USE, ids)
            if commit.keyed:
                await keep_answer(conn, commit.saga_id, uploaded(attributes.file_id, encode(attributes)))
            await notify(conn, FILES_CHANNEL, [_created(commit)])
        failpoint("admin.id_committed")
        self._publish()

    async def abort(self, saga: UploadSaga, reason: str) -> None:
        """Durable on return. A saga that never began is not recorded: its compensation would meet the file of another."""
        async with self._database.begin() as conn:
            await conn.execute(_ABORT, {"saga_id": saga.saga_id, "reason": reason})
        self._undo()


async def mark_used(conn: AsyncConnection, file_id: str | None) -> None:
    """The file exists although no commit of its upload is known; its id will not be used again."""
    await conn.execute(_USE, {"file_id": file_id})


def _created(commit: Commit) -> str:
    event = FileChanged(
        file_id=commit.attributes.file_id,
        revision=commit.attributes.revision,
        change="put",
        storage_element_id=commit.attributes.storage_element_id,
    )
    return msgspec.json.encode(event).decode()


def _error(decision: ClaimDecision) -> ArtStoreError:
    if decision is ClaimDecision.EXISTS:
        return RevisionMismatch("a file with this id exists already")
    if decision is ClaimDecision.DELETED:
        return Conflict("a file with this id was deleted, and ids are not used again: make a new one", reason="deleted")
    if decision is ClaimDecision.IN_PROGRESS:
        detail = "another upload under this id is running or being undone: try again later"
        return Conflict(detail, reason="in_progress", retry_after_s=RETRY_AFTER_S)
    return Unavailable("the catalog is being restored: it is not known which ids exist")

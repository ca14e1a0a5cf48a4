"""Queues a change whose element is away. Durable after the caller's commit, and idempotent by saga id.

Changes of one file, and mode changes of one element, are applied in the order of `begun_at`. Under a lock
each gets a later `begun_at` than the one before, so that the order survives a database clock that was set
back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.catalog.find import SAGA_COLUMNS, saga_view
from artstore.contracts.sagas import SagaKind
from artstore.errors import Conflict

from .query import load_saga
from .saga import SagaEvent, SagaState, advance

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:subject, 0))")
_INSERT = """INSERT INTO sagas (saga_id, kind, state, file_id, storage_element_id, owner, wanted, due_at, begun_at)
    SELECT CAST(:saga_id AS uuid), :kind, 'queued', CAST(:file_id AS uuid), :element_id, :owner, CAST(:wanted AS jsonb), now(),
        greatest(clock_timestamp(), max(begun_at) + interval '1 microsecond')
    FROM sagas WHERE state = 'queued' AND {before} ON CONFLICT (saga_id) DO NOTHING"""
_QUEUE_OF_FILE = text(_INSERT.format(before="file_id = CAST(:file_id AS uuid)"))
_QUEUE_OF_ELEMENT = text(_INSERT.format(before="file_id IS NULL AND storage_element_id = :element_id"))
_LAST_MODE = text(
    f"""SELECT {SAGA_COLUMNS} FROM sagas WHERE state = 'queued' AND file_id IS NULL AND storage_element_id = :element_id
    ORDER BY begun_at DESC LIMIT 1"""
)
_MOVES = text(
    """SELECT saga_id FROM sagas WHERE state = 'queued' AND kind = 'move' AND file_id = CAST(:file_id AS uuid)
    AND saga_id <> CAST(:saga_id AS uuid)"""
)


@dataclass(frozen=True, slots=True)
class ChangeRequest:
    """`file_id` is None for a change of the element. `wanted` is {"changes", "if_revisions"}, for a move {"targets",
    "if_revisions"}, for an element {"mode"}; with the "account" for the audit log."""

    saga_id: str
    kind: SagaKind
    file_id: str | None
    storage_element_id: str
    owner: str
    wanted: dict[str, Any]


async def lock_queue(conn: AsyncConnection, subject: str) -> None:
    """Until the end of the transaction nothing else is queued for this file or this element's mode."""
    await conn.execute(_LOCK, {"subject": subject})


async def find_last_queued(conn: AsyncConnection, element_id: str) -> dict[str, Any] | None:
    """The last of the queued mode changes of the element."""
    row = (await conn.execute(_LAST_MODE, {"element_id": element_id})).mappings().first()
    return None if row is None else saga_view(row)


async def _require_staying(conn: AsyncConnection, change: ChangeRequest) -> None:
    """Raises Conflict while the file is queued to move: afterwards its element allows no change."""
    asked = {"file_id": change.file_id, "saga_id": change.saga_id}
    if change.file_id is not None and (await conn.execute(_MOVES, asked)).first() is not None:
        raise Conflict("the file is being made permanent: it cannot be changed any more")


async def queue_change(conn: AsyncConnection, change: ChangeRequest) -> dict[str, Any]:
    """The saga as it is now. Raises Conflict when the id belongs to a different change."""
    await lock_queue(conn, change.file_id or change.storage_element_id)
    await _require_staying(conn, change)
    values = {
        "saga_id": change.saga_id,
        "kind": change.kind.value,
        "file_id": change.file_id,
        "element_id": change.storage_element_id,
        "owner": change.owner,
        "wanted": orjson.dumps(change.wanted).decode(),
    }
    await conn.execute(_QUEUE_OF_FILE if change.file_id is not None else _QUEUE_OF_ELEMENT, values)
    saga = await load_saga(conn, UUID(change.saga_id))
    known = (saga["kind"], saga["file_id"], saga["owner"])
    if (
        known != (change.kind, change.file_id, change.owner)
        or advance(SagaState(saga["state"]), SagaEvent.QUEUE) is None
    ):
        raise Conflict("the saga is for another change, or already closed", state=saga["state"])
    return saga

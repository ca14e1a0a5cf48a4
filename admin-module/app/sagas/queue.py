"""Remembering a change whose element is away. Durable when it returns, and idempotent by saga id.

Changes of one file, and mode changes of one element, are made in the order of `begun_at`. A lock makes it grow from one to
the next, so that the order also outlives a database clock that was set back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.catalog.sagas import COLUMNS, saga_view
from artstore.contracts.sagas import SagaKind
from artstore.errors import Conflict

from .look import load_saga
from .saga import SagaEvent, SagaState, advance

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:subject, 0))")
_INSERT = """INSERT INTO sagas (saga_id, kind, state, file_id, storage_element_id, owner, wanted, due_at, begun_at)
    SELECT CAST(:saga_id AS uuid), :kind, 'queued', CAST(:file_id AS uuid), :element_id, :owner, CAST(:wanted AS jsonb), now(),
        greatest(clock_timestamp(), max(begun_at) + interval '1 microsecond')
    FROM sagas WHERE state = 'queued' AND {before} ON CONFLICT (saga_id) DO NOTHING"""
_QUEUE_OF_FILE = text(_INSERT.format(before="file_id = CAST(:file_id AS uuid)"))
_QUEUE_OF_ELEMENT = text(_INSERT.format(before="file_id IS NULL AND storage_element_id = :element_id"))
_LAST_MODE = text(
    f"""SELECT {COLUMNS} FROM sagas WHERE state = 'queued' AND file_id IS NULL AND storage_element_id = :element_id
    ORDER BY begun_at DESC LIMIT 1"""
)


@dataclass(frozen=True, slots=True)
class Wish:
    """`file_id` None: of the whole element. `wanted` is {"changes", "if_revisions"} of a file, {"mode"} of an element."""

    saga_id: str
    kind: SagaKind
    file_id: str | None
    storage_element_id: str
    owner: str
    wanted: dict[str, Any]


async def lock_queue(conn: AsyncConnection, subject: str) -> None:
    """To the end of the transaction nothing else is queued for this file or, as to its mode, this element."""
    await conn.execute(_LOCK, {"subject": subject})


async def find_last_queued(conn: AsyncConnection, element_id: str) -> dict[str, Any] | None:
    """The mode change of the element that is made last of those that wait."""
    row = (await conn.execute(_LAST_MODE, {"element_id": element_id})).mappings().first()
    return None if row is None else saga_view(row)


async def queue_change(conn: AsyncConnection, wish: Wish) -> dict[str, Any]:
    """The saga as it is now. Raises Conflict when the id is of another saga."""
    await lock_queue(conn, wish.file_id or wish.storage_element_id)
    values = {
        "saga_id": wish.saga_id,
        "kind": wish.kind.value,
        "file_id": wish.file_id,
        "element_id": wish.storage_element_id,
        "owner": wish.owner,
        "wanted": orjson.dumps(wish.wanted).decode(),
    }
    await conn.execute(_QUEUE_OF_FILE if wish.file_id is not None else _QUEUE_OF_ELEMENT, values)
    saga = await load_saga(conn, UUID(wish.saga_id))
    known = (saga["kind"], saga["file_id"], saga["owner"])
    if known != (wish.kind, wish.file_id, wish.owner) or advance(SagaState(saga["state"]), SagaEvent.QUEUE) is None:
        raise Conflict("the saga is for another change, or already closed", state=saga["state"])
    return saga

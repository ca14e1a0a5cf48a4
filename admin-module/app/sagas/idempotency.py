"""Stores the answer of a request with an Idempotency-Key in the same transaction as the change that it
answers.

A saga that runs under a key may finish only while the key's row names it. A request that takes the key over
writes its own saga into the row.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.contracts.idempotency import Answer
from artstore.database import Database
from artstore.errors import Conflict

from ..purge import BOTH_CLOCKS, purge, purge_statement

_HOLD = text(
    """SELECT saga_id::text FROM idempotency_keys WHERE saga_id = ANY(CAST(:saga_ids AS uuid[]))
    ORDER BY saga_id FOR UPDATE"""
)
_ANSWER = text(
    """UPDATE idempotency_keys SET status = :status, headers = CAST(:headers AS jsonb), body = :body
    WHERE saga_id = CAST(:saga_id AS uuid) AND status IS NULL"""
)
_KEPT = text(
    "SELECT status, headers, body FROM idempotency_keys WHERE saga_id = CAST(:saga_id AS uuid) AND status IS NOT NULL"
)
_PURGE = purge_statement(
    "idempotency_keys",
    "created_at",
    f"created_at < {BOTH_CLOCKS} - make_interval(secs => :keep_s) AND held_until < {BOTH_CLOCKS}",
)


async def hold_keys(conn: AsyncConnection, saga_ids: Iterable[str]) -> set[str]:
    """The sagas that are still named by their keys' rows. Locks the rows, so that no key is taken over before
    the commit."""
    wanted = list(saga_ids)
    if not wanted:
        return set()
    return {row.saga_id for row in await conn.execute(_HOLD, {"saga_ids": wanted})}


async def keep_answer(conn: AsyncConnection, saga_id: str, answer: Answer) -> None:
    """Store the answer of a saga's key. An answer that is already stored is not replaced."""
    headers = orjson.dumps(answer.headers).decode()
    await conn.execute(_ANSWER, {"saga_id": saga_id, "status": answer.status, "headers": headers, "body": answer.body})


async def require_key(conn: AsyncConnection, saga_id: str) -> Answer | None:
    """The stored answer of this saga, if any. Locks the key's row. Raises Conflict when the key belongs to
    another attempt."""
    if not await hold_keys(conn, [saga_id]):
        raise Conflict("the Idempotency-Key now belongs to another attempt")
    row = (await conn.execute(_KEPT, {"saga_id": saga_id})).one_or_none()
    return None if row is None else Answer(status=row.status, headers=row.headers, body=row.body)


async def purge_keys(database: Database, keep_s: float, now: datetime) -> int:
    """Delete keys first used more than `keep_s` seconds ago by both PostgreSQL's clock and ours, unless they
    are held."""
    return await purge(database, _PURGE, {"keep_s": keep_s, "now": now})

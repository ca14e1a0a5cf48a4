"""The rows of idempotency_keys, in statements of one round trip. Every one but `claim` changes a row only while it names the
caller's saga, so that a try which lost its key can change nothing. All raise DatabaseAway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import text

from artstore.contracts.idempotency import KEEP_S, Answer
from artstore.database import Database

from .meeting import Kept

_HELD = "now() + make_interval(secs => :lease_s)"
_MINE = "client_id = :client_id AND key = :key AND saga_id = CAST(:saga_id AS uuid)"

_CLAIM = text(
    f"""INSERT INTO idempotency_keys AS kept (client_id, key, fingerprint, saga_id, file_id, held_until)
    VALUES (:client_id, :key, :fingerprint, CAST(:saga_id AS uuid), CAST(:file_id AS uuid), {_HELD})
    ON CONFLICT (client_id, key) DO UPDATE SET fingerprint = excluded.fingerprint, saga_id = excluded.saga_id,
        file_id = excluded.file_id, held_until = excluded.held_until, created_at = now(), from_revision = NULL,
        status = NULL, headers = NULL, body = NULL
    WHERE kept.created_at < now() - make_interval(secs => :keep_s) AND kept.held_until < now()
    RETURNING 1"""
)
_FIND = text(
    """SELECT fingerprint, saga_id::text, file_id::text, from_revision, status, headers, body,
        extract(epoch FROM held_until - now())::float8 AS held_s
    FROM idempotency_keys WHERE client_id = :client_id AND key = :key"""
)
_TAKE = text(
    f"""UPDATE idempotency_keys SET saga_id = CAST(:new_saga AS uuid), file_id = CAST(:new_file AS uuid),
        held_until = {_HELD} WHERE {_MINE} AND status IS NULL AND held_until < now() RETURNING 1"""
)
_MOVE = text(
    f"""UPDATE idempotency_keys SET saga_id = CAST(:new_saga AS uuid), file_id = CAST(:new_file AS uuid),
        held_until = {_HELD} WHERE {_MINE} AND status IS NULL RETURNING 1"""
)
_RENEW = text(f"UPDATE idempotency_keys SET held_until = {_HELD} WHERE {_MINE} AND status IS NULL RETURNING 1")
_PIN = text(f"UPDATE idempotency_keys SET from_revision = :revision WHERE {_MINE} AND status IS NULL RETURNING 1")
_ANSWER = text(
    f"""UPDATE idempotency_keys SET status = :status, headers = CAST(:headers AS jsonb), body = :body
    WHERE {_MINE} AND status IS NULL RETURNING 1"""
)
_RELEASE = text(f"DELETE FROM idempotency_keys WHERE {_MINE} AND status IS NULL RETURNING 1")
_LET_GO = text(f"UPDATE idempotency_keys SET held_until = now() WHERE {_MINE} AND status IS NULL RETURNING 1")


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose key. Keys of different accounts never meet."""

    client_id: str
    key: str


class Rows:
    def __init__(self, database: Database, lease_s: float) -> None:
        self._database, self.lease_s = database, lease_s

    async def claim(
        self, scope: Scope, fingerprint: str, saga_id: str, file_id: str, *, keep_s: float = KEEP_S
    ) -> bool:
        """Durable when it returns. False: the key is in use, and not older than `keep_s` seconds."""
        values = {"fingerprint": fingerprint, "file_id": file_id, "keep_s": keep_s}
        return await self._changed(_CLAIM, scope, saga_id, **values)

    async def find(self, scope: Scope) -> Kept | None:
        values = {"client_id": scope.client_id, "key": scope.key}
        async with self._database.alone() as connection:
            row = (await connection.execute(_FIND, values)).one_or_none()
        if row is None:
            return None
        answer = None if row.status is None else Answer(status=row.status, headers=row.headers, body=row.body)
        return Kept(row.fingerprint, row.saga_id, row.file_id, row.from_revision, row.held_s, answer)

    async def take(self, scope: Scope, saga_id: str, new_saga: str, new_file: str) -> bool:
        """From a try whose lease is over. Durable: from then on that try can finish nothing."""
        return await self._changed(_TAKE, scope, saga_id, new_saga=new_saga, new_file=new_file)

    async def move(self, scope: Scope, saga_id: str, new_saga: str, new_file: str) -> bool:
        """To the next try of the same request."""
        return await self._changed(_MOVE, scope, saga_id, new_saga=new_saga, new_file=new_file)

    async def renew(self, scope: Scope, saga_id: str) -> bool:
        return await self._changed(_RENEW, scope, saga_id)

    async def pin(self, scope: Scope, saga_id: str, revision: int) -> bool:
        """The revision that is about to be changed."""
        return await self._changed(_PIN, scope, saga_id, revision=revision)

    async def answer(self, scope: Scope, saga_id: str, answer: Answer) -> bool:
        values = {"status": answer.status, "headers": orjson.dumps(answer.headers).decode(), "body": answer.body}
        return await self._changed(_ANSWER, scope, saga_id, **values)

    async def release(self, scope: Scope, saga_id: str) -> bool:
        """The key is as if it had never been used. With an answer it stays: a commit came first."""
        return await self._changed(_RELEASE, scope, saga_id)

    async def let_go(self, scope: Scope, saga_id: str) -> bool:
        """The next request goes on from what this one left, without waiting for the lease."""
        return await self._changed(_LET_GO, scope, saga_id)

    async def _changed(self, statement: Any, scope: Scope, saga_id: str, **more: Any) -> bool:
        values = {"client_id": scope.client_id, "key": scope.key, "saga_id": saga_id, "lease_s": self.lease_s, **more}
        async with self._database.alone() as connection:
            return (await connection.execute(statement, values)).first() is not None

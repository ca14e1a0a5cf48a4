"""The table idempotency_keys, one statement and one round trip per method.

Every statement except `claim` matches the caller's saga id, so that an attempt which lost its key cannot
change the row. All methods raise DatabaseUnavailable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import text

from artstore.contracts.idempotency import KEEP_S, Answer
from artstore.database import Database

_LEASE_END = "now() + make_interval(secs => :lease_s)"
_OWN_ROW = "client_id = :client_id AND key = :key AND saga_id = CAST(:saga_id AS uuid)"

_CLAIM = text(
    f"""INSERT INTO idempotency_keys AS kept (client_id, key, fingerprint, saga_id, file_id, held_until)
    VALUES (:client_id, :key, :fingerprint, CAST(:saga_id AS uuid), CAST(:file_id AS uuid), {_LEASE_END})
    ON CONFLICT (client_id, key) DO UPDATE SET fingerprint = excluded.fingerprint, saga_id = excluded.saga_id,
        file_id = excluded.file_id, held_until = excluded.held_until, created_at = now(), from_revision = NULL,
        status = NULL, headers = NULL, body = NULL
    WHERE kept.created_at < now() - make_interval(secs => :keep_s) AND kept.held_until < now()
    RETURNING 1"""
)
_FIND = text(
    """SELECT fingerprint, saga_id::text, file_id::text, from_revision, status, headers, body,
        extract(epoch FROM held_until - now())::float8 AS lease_left_s
    FROM idempotency_keys WHERE client_id = :client_id AND key = :key"""
)
_TAKE_OVER = text(
    f"""UPDATE idempotency_keys SET saga_id = CAST(:new_saga AS uuid), file_id = CAST(:new_file AS uuid),
        held_until = {_LEASE_END} WHERE {_OWN_ROW} AND status IS NULL AND held_until < now() RETURNING 1"""
)
_SET_IDS = text(
    f"""UPDATE idempotency_keys SET saga_id = CAST(:new_saga AS uuid), file_id = CAST(:new_file AS uuid),
        held_until = {_LEASE_END} WHERE {_OWN_ROW} AND status IS NULL RETURNING 1"""
)
_RENEW = text(f"UPDATE idempotency_keys SET held_until = {_LEASE_END} WHERE {_OWN_ROW} AND status IS NULL RETURNING 1")
_PIN = text(f"UPDATE idempotency_keys SET from_revision = :revision WHERE {_OWN_ROW} AND status IS NULL RETURNING 1")
_ANSWER = text(
    f"""UPDATE idempotency_keys SET status = :status, headers = CAST(:headers AS jsonb), body = :body
    WHERE {_OWN_ROW} AND status IS NULL RETURNING 1"""
)
_RELEASE = text(f"DELETE FROM idempotency_keys WHERE {_OWN_ROW} AND status IS NULL RETURNING 1")
_END_LEASE = text(f"UPDATE idempotency_keys SET held_until = now() WHERE {_OWN_ROW} AND status IS NULL RETURNING 1")


@dataclass(frozen=True, slots=True)
class Scope:
    """A key within its account: equal keys of two accounts are independent."""

    client_id: str
    key: str


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A row. `lease_left_s` is measured by the database's clock."""

    fingerprint: str
    saga_id: str
    file_id: str
    from_revision: int | None
    lease_left_s: float
    answer: Answer | None


class KeyStore:
    def __init__(self, database: Database, lease_s: float) -> None:
        self._database, self.lease_s = database, lease_s

    async def claim(
        self, scope: Scope, fingerprint: str, saga_id: str, file_id: str, *, keep_s: float = KEEP_S
    ) -> bool:
        """Durable on return. False: the key is held, or was first used less than `keep_s` seconds ago."""
        values = {"fingerprint": fingerprint, "file_id": file_id, "keep_s": keep_s}
        return await self._execute(_CLAIM, scope, saga_id, **values)

    async def find(self, scope: Scope) -> StoredKey | None:
        values = {"client_id": scope.client_id, "key": scope.key}
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_FIND, values)).one_or_none()
        if row is None:
            return None
        answer = None if row.status is None else Answer(status=row.status, headers=row.headers, body=row.body)
        return StoredKey(row.fingerprint, row.saga_id, row.file_id, row.from_revision, row.lease_left_s, answer)

    async def take_over(self, scope: Scope, saga_id: str, new_saga: str, new_file: str) -> bool:
        """Gives the key of an attempt whose lease has ended to a new one. Durable: the old attempt can finish
        nothing."""
        return await self._execute(_TAKE_OVER, scope, saga_id, new_saga=new_saga, new_file=new_file)

    async def set_ids(self, scope: Scope, saga_id: str, new_saga: str, new_file: str) -> bool:
        """Gives the key to the next attempt of the same request."""
        return await self._execute(_SET_IDS, scope, saga_id, new_saga=new_saga, new_file=new_file)

    async def renew(self, scope: Scope, saga_id: str) -> bool:
        return await self._execute(_RENEW, scope, saga_id)

    async def pin(self, scope: Scope, saga_id: str, revision: int) -> bool:
        """Records the revision that the element will be asked to change."""
        return await self._execute(_PIN, scope, saga_id, revision=revision)

    async def answer(self, scope: Scope, saga_id: str, answer: Answer) -> bool:
        values = {"status": answer.status, "headers": orjson.dumps(answer.headers).decode(), "body": answer.body}
        return await self._execute(_ANSWER, scope, saga_id, **values)

    async def release(self, scope: Scope, saga_id: str) -> bool:
        """Deletes the row, as if the key had never been used. False when it has an answer: a commit came
        first."""
        return await self._execute(_RELEASE, scope, saga_id)

    async def end_lease(self, scope: Scope, saga_id: str) -> bool:
        """Lets the next request take the key over at once."""
        return await self._execute(_END_LEASE, scope, saga_id)

    async def _execute(self, statement: Any, scope: Scope, saga_id: str, **more: Any) -> bool:
        values = {"client_id": scope.client_id, "key": scope.key, "saga_id": saga_id, "lease_s": self.lease_s, **more}
        async with self._database.autocommit() as connection:
            return (await connection.execute(statement, values)).first() is not None

"""Makes accounts, their secrets and signed links once under an Idempotency-Key (docs/decisions/0021-keys-at-admin.md).

One transaction claims the key, makes the thing and stores the answer, so a crash leaves all of it or nothing, and there is
no lease: a repeat waits for the first request. Answers hold secrets, so they are stored encrypted.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.clock import uuid7
from artstore.contracts.idempotency import KEEP_S, Answer
from artstore.errors import Conflict, KeyInUse, KeyReused

from .identity.secrets import KeyCipher

_CLAIM = text(
    """INSERT INTO idempotency_keys AS kept (client_id, key, fingerprint, saga_id, held_until)
    VALUES (:client_id, :key, :fingerprint, CAST(:saga_id AS uuid), now())
    ON CONFLICT (client_id, key) DO UPDATE SET fingerprint = excluded.fingerprint, saga_id = excluded.saga_id,
        file_id = NULL, held_until = excluded.held_until, created_at = now(), from_revision = NULL,
        status = NULL, headers = NULL, body = NULL
    WHERE kept.created_at < now() - make_interval(secs => :keep_s) AND kept.held_until < now()
    RETURNING 1"""
)
_FIND = text(
    "SELECT fingerprint, status, headers, body FROM idempotency_keys WHERE client_id = :client_id AND key = :key"
)
_KEEP = text(
    """UPDATE idempotency_keys SET status = :status, headers = CAST(:headers AS jsonb), body = :body
    WHERE client_id = :client_id AND key = :key"""
)


@dataclass(frozen=True, slots=True)
class Once:
    """A request of the account `client_id`; without a `key` it is made each time."""

    cipher: KeyCipher
    client_id: str
    key: str | None
    fingerprint: str

    async def find_answer(self, conn: AsyncConnection) -> Answer | None:
        """The answer to the first request; None: this one is the first, and the caller's transaction has to `keep` its
        answer. Raises KeyReused, KeyInUse, Conflict."""
        if self.key is None:
            return None
        values = {"fingerprint": self.fingerprint, "saga_id": str(uuid7()), "keep_s": KEEP_S}
        if (await conn.execute(_CLAIM, {**self._own(), **values})).first() is not None:
            return None
        row = (await conn.execute(_FIND, self._own())).one_or_none()
        if row is not None and row.fingerprint != self.fingerprint:
            raise KeyReused()
        if row is None or row.status is None:
            raise KeyInUse(retry_after_s=1)
        try:
            body = self.cipher.decrypt(self._name(), row.body)
        except ValueError as error:
            raise Conflict("KEY_ENCRYPTION_KEY has changed: the first answer cannot be read any more") from error
        return Answer(status=row.status, headers=row.headers, body=body)

    async def keep(self, conn: AsyncConnection, answer: Answer) -> None:
        if self.key is None:
            return
        sealed = self.cipher.encrypt(self._name(), answer.body)
        headers = orjson.dumps(answer.headers).decode()
        values = {"status": answer.status, "headers": headers, "body": sealed}
        await conn.execute(_KEEP, {**self._own(), **values})

    def _own(self) -> dict[str, str | None]:
        return {"client_id": self.client_id, "key": self.key}

    def _name(self) -> str:
        return f"answer {self.client_id} {self.key} {self.fingerprint}"

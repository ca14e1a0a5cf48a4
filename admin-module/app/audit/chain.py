"""Admin's audit chain: each event carries the hash of the one before it and an Ed25519 signature (DESIGN §12).

All admin instances write one chain, in order under an advisory lock, in the transaction of the change they record. The
lock is taken last in every transaction, so that it is held shortly and never waits for another.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.clock import Clock, rfc3339
from artstore.database import Database
from artstore.errors import Unavailable
from artstore.groups import Group

from ..seal import Sealer

CHAIN = "admin"
SERVICE = "admin"
GENESIS = "0" * 64
"""`prev` of a chain's first event."""
CHAIN_LOCK = 0x6172_7473_0003
EVENTS_AT_ONCE = 128

_LOCK = text("SELECT pg_advisory_xact_lock(:lock)")
_KEY = text("SELECT private_sealed FROM audit_keys WHERE chain = :chain")
_INSERT_KEY = text("INSERT INTO audit_keys (chain, public_key, private_sealed) VALUES (:chain, :public_key, :sealed)")
_HEAD = text("SELECT seq, hash FROM audit_events WHERE chain = :chain ORDER BY seq DESC LIMIT 1")
_INSERT = text(
    """INSERT INTO audit_events
    (chain, seq, prev, "timestamp", service, action, user_id, resource, result, metadata, signature, hash)
    VALUES (:chain, :seq, :prev, :moment, :service, :action, :user_id, :resource, :result,
    CAST(:metadata AS jsonb), :signature, :hash)"""
)


@dataclass(frozen=True, slots=True)
class Event:
    """What happened. `result` is `ok`, `denied` or `failed`; `metadata` holds text, integers, booleans, lists and objects."""

    action: str
    user_id: str
    resource: str
    result: str = "ok"
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Auditor:
    """Writes the chain. One per process."""

    def __init__(self, database: Database, sealer: Sealer, clock: Clock) -> None:
        self._database, self._sealer, self._clock = database, sealer, clock
        self._key: Ed25519PrivateKey | None = None
        self._group: Group[Event, None] = Group(self._write, max_items=EVENTS_AT_ONCE)

    async def load(self, conn: AsyncConnection) -> None:
        """Takes the chain's signing key, made by the first admin that comes."""
        await conn.execute(_LOCK, {"lock": CHAIN_LOCK})
        sealed = (await conn.execute(_KEY, {"chain": CHAIN})).scalar()
        if sealed is None:
            key = Ed25519PrivateKey.generate()
            sealed = self._sealer.seal(f"audit:{CHAIN}", key.private_bytes_raw())
            values = {"chain": CHAIN, "public_key": key.public_key().public_bytes_raw(), "sealed": sealed}
            await conn.execute(_INSERT_KEY, values)
        self._key = Ed25519PrivateKey.from_private_bytes(self._sealer.open(f"audit:{CHAIN}", sealed))

    async def record(self, conn: AsyncConnection, *events: Event) -> None:
        """Appends to the chain in the caller's transaction: the change and its record are committed together."""
        await conn.execute(_LOCK, {"lock": CHAIN_LOCK})
        head = (await conn.execute(_HEAD, {"chain": CHAIN})).first()
        seq, prev = (head.seq, head.hash) if head else (0, GENESIS)
        rows = []
        for event in events:
            seq += 1
            rows.append(self._row(event, seq, prev))
            prev = rows[-1]["hash"]
        await conn.execute(_INSERT, rows)

    async def note(self, event: Event) -> None:
        """Appends in a transaction of its own, shared by concurrent callers: for what changes nothing, as a denied login."""
        await self._group.add(event)

    async def _write(self, events: list[Event]) -> Sequence[None]:
        async with self._database.begin() as conn:
            await self.record(conn, *events)
        return [None] * len(events)

    def _row(self, event: Event, seq: int, prev: str) -> dict[str, Any]:
        if self._key is None:
            raise Unavailable("the audit chain is not open yet", away="database")
        moment = self._clock.now()
        body: dict[str, Any] = {
            "timestamp": rfc3339(moment),
            "service": SERVICE,
            "action": event.action,
            "user_id": event.user_id,
            "resource": event.resource,
            "result": event.result,
            "metadata": dict(event.metadata),
            "chain": CHAIN,
            "seq": seq,
            "prev": prev,
        }
        signature = base64.b64encode(self._key.sign(rfc8785.dumps(body))).decode()
        digest = hashlib.sha256(rfc8785.dumps({**body, "signature": signature})).hexdigest()
        metadata = orjson.dumps(body["metadata"]).decode()
        return {**body, "moment": moment, "metadata": metadata, "signature": signature, "hash": digest}

"""Admin's audit chain, and the key that signs it and the checkpoints.

All admin instances write one chain, serialised by an advisory lock, in the transaction of the change that
they record. The lock is taken last in every transaction, so that it is held briefly and never waits for
another lock.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.audit.check import ADMIN_CHAIN
from artstore.audit.event import ChainHead, Event, Signed, head_after, sign_event
from artstore.audit.store import append_events
from artstore.clock import Clock
from artstore.database import Database
from artstore.errors import DATABASE, Unavailable
from artstore.groups import Group

from ..identity.secrets import KeyCipher

SERVICE = "admin"
CHAIN_LOCK = 0x6172_7473_0003
MAX_BATCH_EVENTS = 128

_LOCK = text("SELECT pg_advisory_xact_lock(:lock)")
_KEY = text("SELECT private_sealed FROM audit_keys WHERE chain = :chain")
_INSERT_KEY = text("INSERT INTO audit_keys (chain, public_key, private_sealed) VALUES (:chain, :public_key, :sealed)")
_HEAD = text("SELECT seq, hash FROM audit_events WHERE chain = :chain ORDER BY seq DESC LIMIT 1")


class Auditor:
    """Writes the chain. One per process."""

    def __init__(self, database: Database, cipher: KeyCipher, clock: Clock) -> None:
        self._database, self._cipher, self._clock = database, cipher, clock
        self._key: Ed25519PrivateKey | None = None
        self._group: Group[Event, None] = Group(self._write, max_items=MAX_BATCH_EVENTS)

    @property
    def key(self) -> Ed25519PrivateKey:
        """Raises Unavailable until the chain is open."""
        if self._key is None:
            raise Unavailable("the audit chain is not open yet", away=DATABASE)
        return self._key

    async def load(self, conn: AsyncConnection) -> None:
        """Load the chain's signing key. The first admin creates it."""
        await conn.execute(_LOCK, {"lock": CHAIN_LOCK})
        sealed = (await conn.execute(_KEY, {"chain": ADMIN_CHAIN})).scalar()
        if sealed is None:
            key = Ed25519PrivateKey.generate()
            sealed = self._cipher.encrypt(f"audit:{ADMIN_CHAIN}", key.private_bytes_raw())
            values = {"chain": ADMIN_CHAIN, "public_key": key.public_key().public_bytes_raw(), "sealed": sealed}
            await conn.execute(_INSERT_KEY, values)
        self._key = Ed25519PrivateKey.from_private_bytes(self._cipher.decrypt(f"audit:{ADMIN_CHAIN}", sealed))

    async def record(self, conn: AsyncConnection, *events: Event) -> None:
        """Append to the chain in the caller's transaction, so that the change and its record are committed
        together."""
        await conn.execute(_LOCK, {"lock": CHAIN_LOCK})
        row = (await conn.execute(_HEAD, {"chain": ADMIN_CHAIN})).first()
        head = ChainHead(row.seq, row.hash) if row else ChainHead()
        signed: list[Signed] = []
        for event in events:
            now = self._clock.now()
            signed.append(sign_event(event, service=SERVICE, chain=ADMIN_CHAIN, after=head, moment=now, key=self.key))
            head = head_after(signed[-1])
        await append_events(conn, signed)

    async def note(self, event: Event) -> None:
        """Append in a separate transaction, shared by concurrent callers: for events without a change, such
        as a denied login."""
        await self._group.add(event)

    async def _write(self, events: list[Event]) -> Sequence[None]:
        async with self._database.begin() as conn:
            await self.record(conn, *events)
        return [None] * len(events)

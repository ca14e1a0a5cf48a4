"""Encrypts the private keys in PostgreSQL anew after KEY_ENCRYPTION_KEY was changed, while its previous value is still given."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.audit.check import ADMIN_CHAIN
from artstore.audit.event import Event
from artstore.contracts.tokens import ISSUER
from artstore.logs import get_logger

from ..audit.chain import Auditor
from .secrets import KeyCipher
from .signing import ROTATION_LOCK

log = get_logger("admin.keys")

_LOCK = text("SELECT pg_advisory_xact_lock(:lock)")
_SIGNING = text("SELECT kid AS name, private_sealed AS sealed FROM signing_keys")
_AUDIT = text("SELECT 'audit:' || chain AS name, private_sealed AS sealed FROM audit_keys WHERE chain = :chain")
_SET_SIGNING = text("UPDATE signing_keys SET private_sealed = :sealed WHERE kid = :name")
_SET_AUDIT = text("UPDATE audit_keys SET private_sealed = :sealed WHERE 'audit:' || chain = :name")


async def reencrypt_keys(conn: AsyncConnection, cipher: KeyCipher, auditor: Auditor) -> None:
    """In the caller's transaction, so that all keys or none are renewed. Done again, it finds nothing to do."""
    await conn.execute(_LOCK, {"lock": ROTATION_LOCK})
    renewed = 0
    for read, write in ((_SIGNING, _SET_SIGNING), (_AUDIT, _SET_AUDIT)):
        for row in (await conn.execute(read, {"chain": ADMIN_CHAIN} if read is _AUDIT else {})).all():
            sealed = cipher.renew(row.name, row.sealed)
            if sealed is not None:
                await conn.execute(write, {"name": row.name, "sealed": sealed})
                renewed += 1
    if renewed:
        await auditor.record(conn, Event("key:rotate", ISSUER, "-", metadata={"kind": "encryption", "keys": renewed}))
        log.info("private keys encrypted anew", keys=renewed)

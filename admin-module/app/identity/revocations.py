"""Revoked keys and tokens, written in the transaction of the change that revokes them. Published with the
JWKS."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.auth.revocations import Revocations
from artstore.contracts.tokens import MAX_LINK_S

from .accounts import Account

KEY_KEPT = timedelta(days=30)
"""How long a revoked key is listed. A verifier that was disconnected for longer has fetched the keys anew."""
CLOCKS_DIFFER = timedelta(seconds=60)
"""Largest difference between the clocks of admin and the verifiers."""

# At least one second after the last time, because tokens issued in that same second are dated one second
# later (issue.py).
_REVOKE = text(
    """INSERT INTO revocations (kind, name, void_through, forget_at)
    VALUES (:kind, :name, :void_through, now() + CAST(:kept AS interval))
    ON CONFLICT (kind, name) DO UPDATE SET forget_at = excluded.forget_at,
    void_through = greatest(revocations.void_through + 1, excluded.void_through)"""
)
_ALL = text("SELECT kind, name, void_through FROM revocations ORDER BY forget_at")
_MADE = text("SELECT name FROM revocations WHERE kind = 'bootstrap'")
_NOTE_MADE = text(
    """INSERT INTO revocations (kind, name, void_through, forget_at)
    SELECT 'bootstrap', name, 0, 'infinity' FROM unnest(CAST(:client_ids AS text[])) AS name ON CONFLICT DO NOTHING"""
)
_FORGET = text("DELETE FROM revocations WHERE forget_at <= least(now(), CAST(:now AS timestamptz))")


def revokes_tokens(before: Account, after: Account) -> bool:
    """True if tokens issued before this change permit more than the account may do after it."""
    suspended = after.suspended and not before.suspended
    sooner = after.expires_at is not None and (before.expires_at is None or after.expires_at < before.expires_at)
    other = before.role is not after.role or not before.permissions <= after.permissions
    return suspended or sooner or other


async def revoke_account(conn: AsyncConnection, account_id: UUID, now_s: float) -> None:
    """Revokes every token issued to the account until now, and every link."""
    kept = timedelta(seconds=MAX_LINK_S) + CLOCKS_DIFFER
    await conn.execute(_REVOKE, {"kind": "account", "name": str(account_id), "void_through": int(now_s), "kept": kept})


async def revoke_key(conn: AsyncConnection, kid: str) -> None:
    """Revokes every token that the key has signed."""
    await conn.execute(_REVOKE, {"kind": "key", "name": kid, "void_through": 0, "kept": KEY_KEPT})


async def load_revocations(conn: AsyncConnection) -> Revocations:
    rows = (await conn.execute(_ALL)).all()
    accounts = {row.name: row.void_through for row in rows if row.kind == "account"}
    return Revocations(accounts, {row.name for row in rows if row.kind == "key"})


async def forget_revocations(conn: AsyncConnection, now: datetime) -> None:
    """Delete revocations whose tokens and links have all expired by PostgreSQL's clock and ours: one wrong clock makes
    no token valid."""
    await conn.execute(_FORGET, {"now": now})


async def list_bootstrapped(conn: AsyncConnection) -> frozenset[str]:
    """client_ids of first accounts that were created once. If one is missing, an operator has deleted it."""
    return frozenset((await conn.execute(_MADE)).scalars())


async def record_bootstrapped(conn: AsyncConnection, client_ids: Collection[str]) -> None:
    if client_ids:
        await conn.execute(_NOTE_MADE, {"client_ids": list(client_ids)})

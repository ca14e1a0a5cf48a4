"""What is taken back before its time, in the transaction of the change that takes it back. Published with the JWKS."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.auth.revocations import Revocations

from .accounts import Account

KEY_KEPT = timedelta(days=30)
"""How long a revoked key is named: a verifier that was away for longer starts with fresh keys or has none."""
CLOCKS_DIFFER = timedelta(seconds=60)
"""Of admin and the verifiers, at most."""

# One second later than the last time, if need be: a token issued since then in that same second is dated so (issue.py).
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


def takes_back(before: Account, after: Account) -> bool:
    """Whether tokens the account has got until now say more than it may do from now on."""
    suspended = after.suspended and not before.suspended
    sooner = after.expires_at is not None and (before.expires_at is None or after.expires_at < before.expires_at)
    other = before.role is not after.role or not before.permissions <= after.permissions
    return suspended or sooner or other


async def revoke_account(conn: AsyncConnection, account_id: UUID, now_s: float, token_lifetime_s: float) -> None:
    """Voids every token the account has got until now."""
    kept = timedelta(seconds=token_lifetime_s) + CLOCKS_DIFFER
    await conn.execute(_REVOKE, {"kind": "account", "name": str(account_id), "void_through": int(now_s), "kept": kept})


async def revoke_key(conn: AsyncConnection, kid: str) -> None:
    """Voids every token the key has signed."""
    await conn.execute(_REVOKE, {"kind": "key", "name": kid, "void_through": 0, "kept": KEY_KEPT})


async def load_revocations(conn: AsyncConnection) -> Revocations:
    rows = (await conn.execute(_ALL)).all()
    accounts = {row.name: row.void_through for row in rows if row.kind == "account"}
    return Revocations(accounts, {row.name for row in rows if row.kind == "key"})


async def forget_revocations(conn: AsyncConnection, now: datetime) -> None:
    """Those whose tokens have all expired, by PostgreSQL's clock and ours: a wrong one makes no token valid again."""
    await conn.execute(_FORGET, {"now": now})


async def known_as_made(conn: AsyncConnection) -> frozenset[str]:
    """client_ids of first accounts that were made once: if one is gone, somebody has deleted it."""
    return frozenset((await conn.execute(_MADE)).scalars())


async def note_as_made(conn: AsyncConnection, client_ids: Collection[str]) -> None:
    if client_ids:
        await conn.execute(_NOTE_MADE, {"client_ids": list(client_ids)})

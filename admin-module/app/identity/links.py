"""The key that signs links, and the signing of one.

It is apart from the keys of tokens: their daily rotation must not end a link. An operator rotates it, which voids every link
at once. It is a row of `signing_keys` with a state of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.auth.links import Link, LinkOrder, SignedLink, link_kid, sign_link
from artstore.clock import Clock
from artstore.contracts.tokens import MAX_LINK_S, Permission
from artstore.database import Database
from artstore.errors import Forbidden, InvalidFields, Unavailable

from .accounts import find_account
from .revocations import CLOCKS_DIFFER, revoke_key
from .secrets import KeyCipher
from .signing import ROTATION_LOCK

_LOCK = text("SELECT pg_advisory_xact_lock(:lock)")
_FIND = text("SELECT kid, since, private_sealed FROM signing_keys WHERE state = 'links' ORDER BY since DESC LIMIT 1")
_REMOVE = text("DELETE FROM signing_keys WHERE state = 'links' RETURNING kid")
_INSERT = text(
    """INSERT INTO signing_keys (kid, state, since, public_key, private_sealed)
    VALUES (:kid, 'links', now(), :public_key, :private_sealed)"""
)


@dataclass(frozen=True, slots=True)
class LinkKey:
    kid: str
    since: datetime
    private_key: Ed25519PrivateKey

    @property
    def public_key(self) -> Ed25519PublicKey:
        return self.private_key.public_key()


async def load_link_key(conn: AsyncConnection, cipher: KeyCipher) -> LinkKey | None:
    """Raises ValueError when it cannot be decrypted."""
    row = (await conn.execute(_FIND)).first()
    if row is None:
        return None
    private_key = load_der_private_key(cipher.decrypt(row.kid, row.private_sealed), password=None)
    if not isinstance(private_key, Ed25519PrivateKey):
        raise ValueError(f"the link key {row.kid} must be an Ed25519 key")
    return LinkKey(row.kid, row.since, private_key)


async def rotate_link_key(conn: AsyncConnection, cipher: KeyCipher, *, force: bool) -> dict[str, Any] | None:
    """Create the key if there is none, or with `force` a new one, and revoke the old one. Returns the metadata for the audit
    log, or None when nothing was done. The caller's transaction."""
    await conn.execute(_LOCK, {"lock": ROTATION_LOCK})
    if not force and (await conn.execute(_FIND)).first() is not None:
        return None
    removed = list((await conn.execute(_REMOVE)).scalars())
    for kid in removed:
        await revoke_key(conn, kid)
    private_key = Ed25519PrivateKey.generate()
    kid = link_kid(private_key.public_key())
    private_der = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    row = {
        "kid": kid,
        "public_key": private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "private_sealed": cipher.encrypt(kid, private_der),
    }
    await conn.execute(_INSERT, row)
    return {"kind": "links", "active": kid, "removed": removed}


async def make_link(database: Database, key: LinkKey | None, clock: Clock, order: LinkOrder) -> SignedLink:
    """Raises Forbidden when the account may not make it any more, InvalidFields, Unavailable."""
    now = clock.now()
    latest_s = now.timestamp() + MAX_LINK_S + CLOCKS_DIFFER.total_seconds()
    if order.expires_at_ms > 1000 * latest_s:
        raise InvalidFields(f"expires_at_ms must be at most {MAX_LINK_S} s from now", fields=["expires_at_ms"])
    if key is None:
        raise Unavailable("no link key is loaded yet")
    async with database.autocommit() as conn:
        account = await find_account(conn, order.account)
    if account is None or not account.usable(now) or Permission.FILES_READ not in account.permissions:
        raise Forbidden("the account may not read files")
    # The account may have been revoked since its token was verified; and like a token (issue.py) a link is dated after the
    # last revocation.
    if order.token_issued_at_s <= (account.void_through or 0):
        raise Forbidden("the token was revoked")
    issued_at_s = max(int(now.timestamp()), (account.void_through or 0) + 1)
    ends_ms = order.expires_at_ms
    if account.expires_at is not None:
        ends_ms = min(ends_ms, int(1000 * account.expires_at.timestamp()))
    link = Link(
        kid=key.kid,
        account=order.account,
        file_id=order.file_id,
        disposition=order.disposition,
        issued_at_s=issued_at_s,
        expires_at_ms=ends_ms,
    )
    return SignedLink(link=sign_link(link, key.private_key), expires_at_ms=ends_ms)

"""Signing keys in PostgreSQL, their rotation, and the JWKS document.

Any admin may rotate; a lock lets one do it. Times are the database's, so that admins with different clocks
agree. Private keys are stored only in encrypted form.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.auth.keys import LINKS, base64url, thumbprint, to_jwk, to_link_jwk
from artstore.auth.revocations import MEMBER, Revocations
from artstore.contracts.tokens import ALGORITHM, TOKEN_TYPE
from artstore.errors import NotFound

from .rotation import KeyAge, KeyState, Plan, Schedule, plan
from .secrets import KeyCipher

PUBLIC_EXPONENT = 65537
KEY_BITS = 2048
"""A key signs for a day; longer keys make each login and each verification dearer."""
ROTATION_LOCK = 0x6172_7473_0002
"""Advisory lock: one admin rotates at a time."""

_LOCK = text("SELECT pg_advisory_xact_lock(:lock)")
_NOW = text("SELECT now()")
_ALL = text(
    "SELECT kid, state, since, public_key, private_sealed FROM signing_keys WHERE state <> 'links' ORDER BY since, kid"
)
_INSERT = text(
    """INSERT INTO signing_keys (kid, state, since, public_key, private_sealed)
    VALUES (:kid, :state, now(), :public_key, :private_sealed)"""
)
_MOVE = text("UPDATE signing_keys SET state = :state, since = now() WHERE kid = :kid")
_REMOVE = text("DELETE FROM signing_keys WHERE kid = ANY(CAST(:kids AS text[]))")


@dataclass(frozen=True, slots=True)
class StoredKey:
    kid: str
    state: KeyState
    since: datetime
    public_key: RSAPublicKey
    private_sealed: bytes


@dataclass(frozen=True, slots=True)
class Signer:
    """The active key with its token header, encoded once."""

    kid: str
    private_key: RSAPrivateKey
    header: bytes


async def load_keys(conn: AsyncConnection) -> list[StoredKey]:
    rows = await conn.execute(_ALL)
    return [
        StoredKey(row.kid, KeyState(row.state), row.since, _public(row.public_key), row.private_sealed) for row in rows
    ]


async def rotate(
    conn: AsyncConnection,
    schedule: Schedule,
    spares: list[RSAPrivateKey],
    cipher: KeyCipher,
    ours: datetime,
    *,
    force: bool = False,
    revoke: str | None = None,
) -> Plan:
    """Carry out the due steps in the caller's transaction. Returns the plan that was carried out.

    `spares` are new keys, made beforehand because that takes long. With too few of them nothing is changed
    and the plan is returned. `ours` is the local time: a key leaves its state only when PostgreSQL's clock
    and ours agree, because one wrong clock would drop keys whose tokens are in use. `revoke` removes a key at
    once, whatever its state. Raises NotFound.
    """
    await conn.execute(_LOCK, {"lock": ROTATION_LOCK})
    now = min((await conn.execute(_NOW)).scalar_one(), ours)
    ages = [KeyAge(key.kid, key.state, key.since) for key in await load_keys(conn)]
    if revoke is not None and all(age.kid != revoke for age in ages):
        raise NotFound("no signing key has this id")
    due = plan(ages, now, schedule, force=force, revoke=revoke)
    if due.empty or len(spares) < len(due.create):
        return due
    if due.remove:
        await conn.execute(_REMOVE, {"kids": list(due.remove)})
    if due.retire:
        await conn.execute(_MOVE, {"kid": due.retire, "state": KeyState.RETIRING.value})
    if due.activate:
        await conn.execute(_MOVE, {"kid": due.activate, "state": KeyState.ACTIVE.value})
    for state, private_key in zip(due.create, spares, strict=False):
        await conn.execute(_INSERT, _new_row(state, private_key, cipher))
    return due


async def make_keys(count: int) -> list[RSAPrivateKey]:
    """In a thread, because one key takes some 100 ms."""
    return [
        await asyncio.to_thread(rsa.generate_private_key, public_exponent=PUBLIC_EXPONENT, key_size=KEY_BITS)
        for _ in range(count)
    ]


def to_signer(key: StoredKey, cipher: KeyCipher) -> Signer:
    """Raises ValueError when it cannot be decrypted."""
    private_key = load_der_private_key(cipher.decrypt(key.kid, key.private_sealed), password=None)
    if not isinstance(private_key, RSAPrivateKey):
        raise ValueError(f"the signing key {key.kid} must be an RSA key")
    header = orjson.dumps({"alg": ALGORITHM, "kid": key.kid, "typ": TOKEN_TYPE})
    return Signer(key.kid, private_key, base64url(header).encode())


def jwks(keys: Iterable[StoredKey], links: Mapping[str, Ed25519PublicKey], revoked: Revocations) -> bytes:
    """RFC 7517: the keys that sign, have signed or will sign; those of links; and the revocations (auth/revocations.py)."""
    return orjson.dumps(
        {
            "keys": [to_jwk(key.kid, key.public_key) for key in keys],
            LINKS: [to_link_jwk(kid, key) for kid, key in links.items()],
            MEMBER: revoked.members(),
        }
    )


def summary(due: Plan) -> dict[str, Any]:
    """The plan as metadata for the audit log."""
    return {
        "removed": list(due.remove),
        "retiring": due.retire,
        "active": due.activate,
        "created": {state.value: count for state, count in Counter(due.create).items()},
    }


def _new_row(state: KeyState, private_key: RSAPrivateKey, cipher: KeyCipher) -> dict[str, Any]:
    public_key = private_key.public_key()
    kid = thumbprint(public_key)
    private_der = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return {
        "kid": kid,
        "state": state.value,
        "public_key": public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "private_sealed": cipher.encrypt(kid, private_der),
    }


def _public(der: bytes) -> RSAPublicKey:
    public_key = load_der_public_key(der)
    if not isinstance(public_key, RSAPublicKey):
        raise ValueError("a signing key must be an RSA key")
    return public_key

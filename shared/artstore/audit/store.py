"""The audit log in PostgreSQL: `audit_events` takes inserts only, `audit_keys` holds each chain's public key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.audit.event import Signed, hash_of
from artstore.clock import parse_rfc3339

_INSERT = """INSERT INTO audit_events
    (chain, seq, prev, "timestamp", service, action, user_id, resource, result, metadata, signature, hash)
    VALUES (:chain, :seq, :prev, :moment, :service, :action, :user_id, :resource, :result,
    CAST(:metadata AS jsonb), :signature, :hash)"""
_APPEND = text(_INSERT)
_SHIP = text(f"{_INSERT} ON CONFLICT (chain, seq) DO NOTHING")
_SIGNATURES = text("SELECT seq, signature FROM audit_events WHERE chain = :chain AND seq BETWEEN :first AND :last")
_INSERT_KEY = text(
    "INSERT INTO audit_keys (chain, public_key) VALUES (:chain, :public_key) ON CONFLICT (chain) DO NOTHING"
)


async def append_events(conn: AsyncConnection, events: Sequence[Signed]) -> None:
    """Inserts the next events of a chain. The caller must hold the chain's lock."""
    await conn.execute(_APPEND, [_row(event) for event in events])


async def ship_events(conn: AsyncConnection, chain: str, public_key: bytes, events: Sequence[Signed]) -> list[Signed]:
    """Inserts events of a service's own chain, in order; events that are already stored are skipped. Returns
    the displaced ones: those whose (chain, seq) is taken by a different event, which only tampering can
    cause."""
    await conn.execute(_INSERT_KEY, {"chain": chain, "public_key": public_key})
    await conn.execute(_SHIP, [_row(event) for event in events])
    span = {"chain": chain, "first": events[0]["seq"], "last": events[-1]["seq"]}
    stored = {row.seq: row.signature for row in await conn.execute(_SIGNATURES, span)}
    return [event for event in events if stored.get(event["seq"]) != event["signature"]]


def _row(event: Signed) -> dict[str, Any]:
    metadata = orjson.dumps(event["metadata"]).decode()
    return {**event, "moment": parse_rfc3339(event["timestamp"]), "metadata": metadata, "hash": hash_of(event)}

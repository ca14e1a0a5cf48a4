"""The audit log for AUDITOR and ADMIN: pages, newest first; and whole chains, in order, for the check and the export."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.audit.event import Signed
from artstore.clock import rfc3339
from artstore.database import Database

ROW_COLUMNS = """least(greatest(e."timestamp", '0002-01-01Z'), '9998-12-31Z') AS "timestamp", e.service, e.action, e.user_id,
    e.resource, e.result, e.metadata, e.signature, e.chain, e.seq, e.prev"""
"""Moments that Python has not, which only a forger writes, are brought into its range: the check then names them."""
WALK_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Filters:
    """None: whatever it is."""

    action: str | None = None
    user_id: str | None = None
    result: str | None = None
    service: str | None = None
    chain: str | None = None
    resource: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def empty(self) -> bool:
        return self == Filters()


_MATCHES = """
      (CAST(:action AS text) IS NULL OR action = CAST(:action AS text))
      AND (CAST(:user_id AS text) IS NULL OR user_id = CAST(:user_id AS text))
      AND (CAST(:result AS text) IS NULL OR result = CAST(:result AS text))
      AND (CAST(:service AS text) IS NULL OR service = CAST(:service AS text))
      AND (CAST(:chain AS text) IS NULL OR chain = CAST(:chain AS text))
      AND (CAST(:resource AS text) IS NULL OR resource = CAST(:resource AS text))
      AND (CAST(:since AS timestamptz) IS NULL OR "timestamp" >= CAST(:since AS timestamptz))
      AND (CAST(:until AS timestamptz) IS NULL OR "timestamp" < CAST(:until AS timestamptz))"""
_PAGE = text(
    f"""SELECT id, {ROW_COLUMNS} FROM audit_events AS e
    WHERE (CAST(:before AS bigint) IS NULL OR id < CAST(:before AS bigint)) AND {_MATCHES}
    ORDER BY id DESC LIMIT :limit"""
)
# By id last: if two rows stand in one place, both are seen.
_WALK = text(
    f"""SELECT id, {ROW_COLUMNS} FROM audit_events AS e
    WHERE (chain, seq, id) > (:after_chain, :after_seq, :after_id) AND {_MATCHES}
      AND seq > coalesce((CAST(:known AS jsonb) ->> chain)::bigint, 0)
    ORDER BY chain, seq, id LIMIT :limit"""
)
_COUNTS = text(
    """SELECT chain, count(*) AS events FROM audit_events
    WHERE seq <= coalesce((CAST(:known AS jsonb) ->> chain)::bigint, 0) GROUP BY chain"""
)
_ONE = text(f"SELECT {ROW_COLUMNS} FROM audit_events AS e WHERE chain = :chain AND seq = :seq")
_KEYS = text("SELECT chain, public_key FROM audit_keys ORDER BY chain")


async def list_events(
    conn: AsyncConnection, before: int | None, limit: int, filters: Filters
) -> list[tuple[int, Signed]]:
    """(row id, event exactly as it was signed), those before row `before`."""
    rows = await conn.execute(_PAGE, {"before": before, "limit": limit, **_values(filters)})
    return [(row["id"], to_event(row)) for row in rows.mappings()]


async def walk_events(
    database: Database, filters: Filters, known: Mapping[str, int] | None = None
) -> AsyncIterator[list[Signed]]:
    """Every event, chain after chain, in pieces; no transaction stays open between them. `known`: by chain the `seq` of the
    last event that is left out."""
    place = {"after_chain": "", "after_seq": 0, "after_id": 0}
    left_out = orjson.dumps(dict(known or {})).decode()
    while True:
        async with database.begin() as conn:
            found = await conn.execute(_WALK, {**place, "limit": WALK_AT_ONCE, "known": left_out, **_values(filters)})
            rows = found.mappings().all()
        if rows:
            yield [to_event(row) for row in rows]
        if len(rows) < WALK_AT_ONCE:
            return
        last = rows[-1]
        place = {"after_chain": last["chain"], "after_seq": last["seq"], "after_id": last["id"]}


async def count_events(conn: AsyncConnection, known: Mapping[str, int]) -> dict[str, int]:
    """By chain how many events there are up to its `seq` in `known`."""
    rows = await conn.execute(_COUNTS, {"known": orjson.dumps(dict(known)).decode()})
    return {row.chain: row.events for row in rows}


async def find_event(conn: AsyncConnection, chain: str, seq: int) -> Signed | None:
    row = (await conn.execute(_ONE, {"chain": chain, "seq": seq})).mappings().first()
    return None if row is None else to_event(row)


async def load_public_keys(conn: AsyncConnection) -> dict[str, bytes]:
    """Raw Ed25519 public keys by chain."""
    return {row.chain: row.public_key for row in await conn.execute(_KEYS)}


def to_event(row: Any) -> Signed:
    event = {name: value for name, value in row.items() if name != "id"}
    return {**event, "timestamp": rfc3339(row["timestamp"])}


def _values(filters: Filters) -> dict[str, Any]:
    return {name: getattr(filters, name) for name in Filters.__slots__}

"""The audit log for AUDITOR and ADMIN: pages, newest first; and whole chains, in order, for the check and the export."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.audit.event import Signed
from artstore.clock import rfc3339
from artstore.database import Database

ROW_COLUMNS = """least(greatest(e."timestamp", '0002-01-01Z'), '9998-12-31Z') AS "timestamp", e.service, e.action, e.user_id,
    e.resource, e.result, e.metadata, e.signature, e.chain, e.seq, e.prev"""
"""Moments that Python has not, which only a forger writes, are brought into its range: the check then names them."""
WALK_AT_ONCE = 1000
LIST_AT_ONCE = 20_000
"""Rows that one statement of a filtered list passes over."""
LIST_PATIENCE_S = 3.0
"""After it a list gives what it has found, with the cursor at which it stopped."""
COUNT_AT_ONCE = 50_000
MAX_SEQ = 2**63 - 1


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
_MATCHES_IN_CHAIN = _MATCHES.replace(":chain", ":only_chain")
_PAGE = text(
    f"""SELECT id, {ROW_COLUMNS} FROM audit_events AS e WHERE id < :before AND id >= :oldest AND {_MATCHES}
    ORDER BY id DESC LIMIT :limit"""
)
_OLDEST = text(
    """SELECT min(id) FROM (SELECT id FROM audit_events WHERE id < :before ORDER BY id DESC LIMIT :limit) AS page"""
)
# By id last: if two rows stand in one place, both are seen. The window is found by the index alone, then what matches is read:
# no statement passes over more than WALK_AT_ONCE rows, however few match.
_WINDOW = text(
    """SELECT count(*) AS rows, max(seq) AS seq, max(id) FILTER (WHERE seq = last) AS id FROM (
        SELECT seq, id, max(seq) OVER () AS last FROM (
            SELECT seq, id FROM audit_events WHERE chain = :chain AND seq >= :after_seq
            AND (seq, id) > (:after_seq, :after_id) AND seq <= :until ORDER BY seq, id LIMIT :limit) AS page) AS numbered"""
)
_WALK = text(
    f"""SELECT id, {ROW_COLUMNS} FROM audit_events AS e
    WHERE chain = :chain AND seq >= :after_seq AND (seq, id) > (:after_seq, :after_id) AND (seq, id) <= (:seq, :id)
    AND {_MATCHES_IN_CHAIN} ORDER BY seq, id"""
)
_NEXT_CHAIN = text("SELECT chain FROM audit_events WHERE chain > :after ORDER BY chain LIMIT 1")
_COUNT = text(
    """SELECT count(*) AS rows, max(seq) AS seq FROM (SELECT seq FROM audit_events
    WHERE chain = :chain AND seq > :after AND seq <= :until ORDER BY seq LIMIT :limit) AS page"""
)
_ONE = text(f"SELECT {ROW_COLUMNS} FROM audit_events AS e WHERE chain = :chain AND seq = :seq")
_KEYS = text("SELECT chain, public_key FROM audit_keys ORDER BY chain")


async def list_events(
    database: Database, before: int | None, limit: int, filters: Filters
) -> tuple[list[tuple[int, Signed]], int | None]:
    """At most `limit` of (row id, event exactly as it was signed), those before row `before`; and the row id at which the next
    page goes on, None at the end. A page may be short when few of very many rows match."""
    found: list[tuple[int, Signed]] = []
    place, deadline_s = MAX_SEQ if before is None else before, time.monotonic() + LIST_PATIENCE_S
    while time.monotonic() < deadline_s:
        async with database.begin() as conn:
            oldest = await conn.scalar(_OLDEST, {"before": place, "limit": LIST_AT_ONCE})
            if oldest is None:
                return found, None
            values = {"before": place, "oldest": oldest, "limit": limit + 1 - len(found), **_values(filters)}
            rows = (await conn.execute(_PAGE, values)).mappings().all()
        found += [(row["id"], to_event(row)) for row in rows]
        if len(found) > limit:
            return found[:limit], found[limit - 1][0]
        place = oldest
    return found, place


async def walk_events(
    database: Database, filters: Filters, known: Mapping[str, int] | None = None, until: Mapping[str, int] | None = None
) -> AsyncIterator[list[Signed]]:
    """Every event, chain after chain, in pieces; no transaction stays open between them. `known`: by chain the `seq` of the
    last event that is left out. `until`: only these chains, and each only as far."""
    chain = ""
    while (chain := await _next_chain(database, chain)) != "":
        if (until is not None and chain not in until) or (filters.chain is not None and filters.chain != chain):
            continue
        last = MAX_SEQ if until is None else until[chain]
        place = {"after_seq": (known or {}).get(chain, -MAX_SEQ), "after_id": MAX_SEQ}
        while True:
            async with database.begin() as conn:
                window = (
                    await conn.execute(_WINDOW, {**place, "chain": chain, "until": last, "limit": WALK_AT_ONCE})
                ).one()
                if not window.rows:
                    break
                values = {**_values(filters), **place, "chain": chain, "seq": window.seq, "id": window.id}
                values["only_chain"] = filters.chain
                rows = (await conn.execute(_WALK, values)).mappings().all()
            if rows:
                yield [to_event(row) for row in rows]
            place = {"after_seq": window.seq, "after_id": window.id}
            if window.rows < WALK_AT_ONCE:
                break


async def _next_chain(database: Database, after: str) -> str:
    """By the index, without passing over the events of a chain. "" after the last."""
    async with database.begin() as conn:
        return await conn.scalar(_NEXT_CHAIN, {"after": after}) or ""


async def count_events(database: Database, chain: str, after: int, until: int) -> int:
    """How many events of the chain stand after `after`, up to `until`."""
    total = 0
    while True:
        values = {"chain": chain, "after": after, "until": until, "limit": COUNT_AT_ONCE}
        async with database.begin() as conn:
            page = (await conn.execute(_COUNT, values)).one()
        total += int(page.rows)
        if page.rows < COUNT_AT_ONCE:
            return total
        after = page.seq


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

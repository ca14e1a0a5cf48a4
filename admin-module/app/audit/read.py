"""Reads the audit log: pages, newest first, and whole chains in order for the check and the export."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
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
"""Timestamps outside Python's range, which only a forger writes, are clamped, so that the check reports
them."""
WALK_BATCH_ROWS = 1000
LIST_BATCH_ROWS = 20_000
"""Rows that one statement of a filtered list scans."""
LIST_TIMEOUT_S = 3.0
"""After this time a list returns what it has found, with the cursor at which it stopped."""
COUNT_BATCH_ROWS = 50_000
MAX_SEQ = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Filters:
    """None matches everything."""

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
# Ordered by seq, then id, so that two rows with one seq are both read. The window is found by an index-only
# scan, then its matching rows are read: no statement scans more than WALK_BATCH_ROWS rows, however few match.
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
    """At most `limit` pairs of row id and event as it was signed, below row `before`; and the row id of the
    next page or None.

    A page may be short when few of very many rows match.
    """
    found: list[tuple[int, Signed]] = []
    place, deadline_s = MAX_SEQ if before is None else before, time.monotonic() + LIST_TIMEOUT_S
    while time.monotonic() < deadline_s:
        async with database.begin() as conn:
            oldest = await conn.scalar(_OLDEST, {"before": place, "limit": LIST_BATCH_ROWS})
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
    """Every event, chain by chain, in pieces; no transaction stays open between them.

    `known`: by chain, the `seq` of the last event to skip. `until`: only these chains, each up to this `seq`.
    """
    chain = ""
    while (chain := await _next_chain(database, chain)) != "":
        if (until is not None and chain not in until) or (filters.chain is not None and filters.chain != chain):
            continue
        last = MAX_SEQ if until is None else until[chain]
        place = {"after_seq": (known or {}).get(chain, -MAX_SEQ), "after_id": MAX_SEQ}
        while True:
            async with database.begin() as conn:
                window = (
                    await conn.execute(_WINDOW, {**place, "chain": chain, "until": last, "limit": WALK_BATCH_ROWS})
                ).one()
                if not window.rows:
                    break
                values = {**_values(filters), **place, "chain": chain, "seq": window.seq, "id": window.id}
                values["only_chain"] = filters.chain
                rows = (await conn.execute(_WALK, values)).mappings().all()
            if rows:
                yield [to_event(row) for row in rows]
            place = {"after_seq": window.seq, "after_id": window.id}
            if window.rows < WALK_BATCH_ROWS:
                break


async def _next_chain(database: Database, after: str) -> str:
    """Found by the index without scanning the events of a chain. "" after the last one."""
    async with database.begin() as conn:
        return await conn.scalar(_NEXT_CHAIN, {"after": after}) or ""


async def count_events(
    database: Database, chain: str, after: int, until: int, rest: Callable[[], Awaitable[None]]
) -> int:
    """The number of events of the chain with `seq` above `after`, up to `until`. Awaits `rest` between batches."""
    total = 0
    while True:
        values = {"chain": chain, "after": after, "until": until, "limit": COUNT_BATCH_ROWS}
        async with database.begin() as conn:
            page = (await conn.execute(_COUNT, values)).one()
        total += int(page.rows)
        if page.rows < COUNT_BATCH_ROWS:
            return total
        after = page.seq
        await rest()


async def find_event(conn: AsyncConnection, chain: str, seq: int) -> Signed | None:
    row = (await conn.execute(_ONE, {"chain": chain, "seq": seq})).mappings().first()
    return None if row is None else to_event(row)


async def load_public_keys(conn: AsyncConnection) -> dict[str, bytes]:
    """Raw Ed25519 public keys by chain."""
    return {row.chain: row.public_key for row in await conn.execute(_KEYS)}


def key_line(chain: str, public_key: bytes) -> Signed:
    """A public key as a line of an export."""
    return {"type": "key", "chain": chain, "public_key": base64.b64encode(public_key).decode()}


def ndjson(values: Iterable[Signed]) -> bytes:
    return b"".join(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values)


def to_event(row: Any) -> Signed:
    event = {name: value for name, value in row.items() if name != "id"}
    return {**event, "timestamp": rfc3339(row["timestamp"])}


def _values(filters: Filters) -> dict[str, Any]:
    return {name: getattr(filters, name) for name in Filters.__slots__}

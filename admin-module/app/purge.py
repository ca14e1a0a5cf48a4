"""Deletes old rows in batches: short transactions with pauses, until none is left."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import TextClause, text

from artstore.database import Database

BATCH_ROWS = 2_000
PAUSE_S = 0.02
"""Between two batches, so that uploads find free disk time and connections. At most some 20 000 rows a
second."""
BOTH_CLOCKS = "least(now(), CAST(:now AS timestamptz))"
"""The time that ages are compared with: PostgreSQL's or ours (`now`), whichever is earlier. One wrong clock
deletes nothing."""
KEEP_CHANGES_S = 7 * 24 * 3600.0
PURGE_CHANGES_BATCH = 10_000
PURGE_CHANGES_LOCK = 0x6172_7473_0006
_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)


# One statement, so that the stored position and the rows never disagree. `locked` lets one admin purge at a
# time.
_PURGE_CHANGES = text(
    f"""WITH locked AS (SELECT pg_try_advisory_xact_lock(:lock) AS held),
    old AS (
        SELECT txid, position FROM (
            SELECT txid, position, at FROM changes ORDER BY txid, position LIMIT :purge) AS oldest, locked
        WHERE locked.held AND at < {BOTH_CLOCKS} - make_interval(secs => :keep_s)),
    gone AS (
        DELETE FROM changes USING old WHERE changes.txid = old.txid AND changes.position = old.position
        RETURNING changes.txid, changes.position),
    moved AS (
        UPDATE changes_purged SET (txid, position) = (SELECT txid, position FROM old ORDER BY txid DESC, position DESC LIMIT 1)
        WHERE EXISTS (SELECT FROM old) RETURNING 1)
    SELECT count(*) FROM gone"""
)


def purge_statement(table: str, moment: str, where: str) -> TextClause:
    """Deletes at most `:batch` of the oldest rows by `moment` that match `where`. Concurrent admins share the
    work: each skips rows that another has locked. `:after` skips the index entries of rows that earlier
    batches have deleted."""
    return text(
        f"""WITH doomed AS MATERIALIZED (SELECT ctid, {moment} AS moment FROM {table} WHERE {moment} >= :after AND {where}
            ORDER BY {moment} LIMIT :batch FOR UPDATE SKIP LOCKED),
        gone AS (DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM doomed)) RETURNING {moment} AS moment)
        SELECT count(*) AS deleted, max(moment) AS reached FROM gone"""
    )


async def purge(database: Database, statement: TextClause, values: Mapping[str, Any]) -> int:
    """Returns how many rows were deleted. A crash loses at most the last batch; the next round deletes it."""
    total, after = 0, _BEGIN
    while True:
        async with database.begin(durable=False) as conn:
            row = (await conn.execute(statement, {**values, "after": after, "batch": BATCH_ROWS})).one()
        total += int(row.deleted)
        if row.deleted < BATCH_ROWS:
            return total
        after = row.reached
        await asyncio.sleep(PAUSE_S)


async def purge_changes(database: Database, keep_s: float, now: datetime) -> int:
    """Purge the change feed (`changes`), oldest first, in batches until none is older than `keep_s` seconds.

    Stores the position up to which changes are purged, so that a reader with an older cursor gets an error
    instead of a gap. Returns how many were purged. Raises DatabaseUnavailable.
    """
    purged = 0
    while True:
        async with database.begin() as conn:
            values = {"lock": PURGE_CHANGES_LOCK, "purge": PURGE_CHANGES_BATCH, "keep_s": keep_s, "now": now}
            gone = int((await conn.execute(_PURGE_CHANGES, values)).scalar_one())
        purged += gone
        if not gone:
            return purged

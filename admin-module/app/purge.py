"""Deleting old rows in batches: short transactions with pauses, until nothing is left. Several admins share the work, since
each skips the rows that another has locked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import TextClause, text

from artstore.database import Database

BATCH = 2_000
PAUSE_S = 0.02
"""Between two batches, so that uploads find PostgreSQL's disk and connections free: about 20 000 rows a second at most."""
BOTH_CLOCKS = "least(now(), CAST(:now AS timestamptz))"
"""The time by which a row is old: PostgreSQL's or ours (`now`), whichever is earlier, so that a wrong clock deletes nothing."""
_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)


def purge_statement(table: str, moment: str, where: str) -> TextClause:
    """Deletes the oldest rows by `moment` that `where` names, at most `:batch`, and not the ones before `:after`: those were
    deleted by earlier batches, and their index entries would be passed again each time."""
    return text(
        f"""WITH doomed AS MATERIALIZED (SELECT ctid, {moment} AS moment FROM {table} WHERE {moment} >= :after AND {where}
            ORDER BY {moment} LIMIT :batch FOR UPDATE SKIP LOCKED),
        gone AS (DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM doomed)) RETURNING {moment} AS moment)
        SELECT count(*) AS deleted, max(moment) AS reached FROM gone"""
    )


async def purge(database: Database, statement: TextClause, values: Mapping[str, Any]) -> int:
    """How many rows were deleted. A crash loses the last batch at most; the next round deletes it."""
    total, after = 0, _BEGIN
    while True:
        async with database.begin(durable=False) as conn:
            row = (await conn.execute(statement, {**values, "after": after, "batch": BATCH})).one()
        total += int(row.deleted)
        if row.deleted < BATCH:
            return total
        after = row.reached
        await asyncio.sleep(PAUSE_S)

"""Purges the change feed (`changes`), oldest first, and keeps the place up to which it is gone: a reader with an older cursor is
told so instead of missing changes."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text

from artstore.database import Database

from .purge import BOTH_CLOCKS

KEEP_CHANGES_S = 7 * 24 * 3600.0
PURGE_AT_ONCE = 10_000

# One statement and one transaction: the place and the rows can never disagree. `locked` lets one admin purge at a time.
_PURGE = text(
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
_LOCK = 0x6172_7473_0006


async def purge_changes(database: Database, keep_s: float, now: datetime) -> int:
    """Drops changes older than `keep_s` seconds, in batches until none is left; returns how many. Raises DatabaseAway."""
    purged = 0
    while True:
        async with database.begin() as conn:
            values = {"lock": _LOCK, "purge": PURGE_AT_ONCE, "keep_s": keep_s, "now": now}
            gone = int((await conn.execute(_PURGE, values)).scalar_one())
        purged += gone
        if not gone:
            return purged

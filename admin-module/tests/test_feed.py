"""The purge of the change feed: all that is old goes in one round, and readers can tell what they missed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import create_async_engine

from app.purge import PURGE_CHANGES_BATCH, purge_changes
from artstore.database import Database
from artstore.database_errors import DatabaseUnavailable
from artstore.metrics import new_registry
from artstore.peers.breaker import Breakers

OLD = 2 * PURGE_CHANGES_BATCH + 3
YOUNG = 50


async def test_old_changes_are_purged_and_the_position_is_stored(admin: Any) -> None:
    await admin.sql("TRUNCATE changes")
    await admin.sql(
        """INSERT INTO changes (txid, change, file_id, revision, at)
        SELECT n / 7 + 1, 'created', gen_random_uuid(), 1, now() - make_interval(secs => CASE WHEN n <= $1 THEN 100 ELSE 5 END)
        FROM generate_series(1, $1 + $2::int) AS n""",
        OLD,
        YOUNG,
    )
    [last] = await admin.sql("SELECT txid, position FROM changes ORDER BY txid, position OFFSET $1 LIMIT 1", OLD - 1)
    engine = create_async_engine(admin.database_url)
    database = Database(engine, Breakers(new_registry()).to("postgresql", (DatabaseUnavailable,)))
    try:
        purged = await asyncio.gather(*(purge_changes(database, 50, datetime.now(UTC)) for _ in range(3)))
        assert sum(purged) + await purge_changes(database, 50, datetime.now(UTC)) == OLD
    finally:
        await engine.dispose()
    assert len(await admin.sql("SELECT 1 FROM changes")) == YOUNG
    assert await admin.sql("SELECT txid, position FROM changes_purged") == [last]

"""Finished sagas and old idempotency keys are deleted faster than 2 000 uploads a second can make them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from app.purge import BATCH, purge
from app.sagas import keyed, upkeep
from artstore.breaker import Breakers
from artstore.database import Database, DatabaseAway
from artstore.metrics import new_registry

ROWS = 60_000
"""What 2 000 uploads a second leave behind in half a minute."""
STATEMENTS = {"sagas": upkeep._PURGE, "idempotency_keys": keyed._PURGE}
FILL = {
    "sagas": """INSERT INTO sagas (saga_id, kind, state, file_id, storage_element_id, owner, due_at, updated_at)
        SELECT gen_random_uuid(), 'upload', 'committed', gen_random_uuid(), 'se-01', 'owner', NULL,
        now() - interval '30 days' + n * interval '1 ms' FROM generate_series(1, $1::int) AS n""",
    "idempotency_keys": """INSERT INTO idempotency_keys (client_id, key, fingerprint, saga_id, held_until, created_at)
        SELECT 'client', 'key-' || n, 'f', gen_random_uuid(), now() - interval '30 days',
        now() - interval '30 days' + n * interval '1 ms' FROM generate_series(1, $1::int) AS n""",
}
KEEP = {"keep_s": 24 * 3600.0, "now": datetime(2100, 1, 1, tzinfo=UTC)}


@pytest.fixture
async def databases(admin: Any) -> AsyncIterator[list[Database]]:
    """As three admins have them."""
    engines = [create_async_engine(admin.database_url) for _ in range(3)]
    yield [Database(engine, Breakers(new_registry()).to("postgresql", (DatabaseAway,))) for engine in engines]
    for engine in engines:
        await engine.dispose()


async def left(admin: Any, table: str) -> int:
    """Rows that are old enough to go; other tests and the admin that runs may have deleted some as well."""
    moment = "updated_at" if table == "sagas" else "created_at"
    finished = "due_at IS NULL" if table == "sagas" else "held_until < now()"
    where = f"{finished} AND {moment} < now() - interval '25 days'"
    return int((await admin.sql(f"SELECT count(*) FROM {table} WHERE {where}"))[0]["count"])


@pytest.mark.parametrize("table", STATEMENTS)
async def test_one_round_deletes_all_that_is_old_and_says_at_what_rate(
    admin: Any, databases: list[Database], table: str, record_property: Any
) -> None:
    await admin.sql(FILL[table], ROWS)
    began_s = time.monotonic()
    deleted = await purge(databases[0], STATEMENTS[table], KEEP)
    rate = deleted / (time.monotonic() - began_s)
    record_property("rows_per_second", round(rate))
    assert await left(admin, table) == 0


@pytest.mark.parametrize("table", STATEMENTS)
async def test_several_admins_share_the_work(admin: Any, databases: list[Database], table: str) -> None:
    await admin.sql(FILL[table], ROWS // 2)
    await asyncio.gather(*(purge(database, STATEMENTS[table], KEEP) for database in databases))
    assert await left(admin, table) == 0


@pytest.mark.parametrize("table", STATEMENTS)
async def test_a_row_that_somebody_holds_is_passed_over_and_holds_nobody_up(
    admin: Any, databases: list[Database], table: str
) -> None:
    await admin.sql(FILL[table], 10)
    holder = await asyncpg.connect(admin.database_url.replace("+asyncpg", ""))
    moment = "updated_at" if table == "sagas" else "created_at"
    async with holder.transaction():
        await holder.fetch(f"SELECT FROM {table} ORDER BY {moment} LIMIT 1 FOR UPDATE")
        async with asyncio.timeout(120):
            await purge(databases[0], STATEMENTS[table], KEEP)
        assert await left(admin, table) <= 1
    await holder.close()
    await purge(databases[0], STATEMENTS[table], KEEP)
    assert await left(admin, table) == 0


@pytest.mark.parametrize("table", STATEMENTS)
async def test_a_batch_is_found_by_an_index(admin: Any, databases: list[Database], table: str) -> None:
    await admin.sql(FILL[table], ROWS)
    await admin.sql(f"ANALYZE {table}")
    statement = str(STATEMENTS[table])
    for name, value in {
        ":after": "'1970-01-01Z'",
        ":now": "'2100-01-01Z'",
        ":keep_s": "86400",
        ":batch": str(BATCH),
    }.items():
        statement = statement.replace(name, value)
    plan = "\n".join(row[0] for row in await admin.sql(f"EXPLAIN {statement}"))
    assert f"Seq Scan on {table}" not in plan, plan
    await purge(databases[0], STATEMENTS[table], KEEP)

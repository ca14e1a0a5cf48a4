"""Finished sagas and old idempotency keys are deleted faster than 2 000 uploads a second can make them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy.ext.asyncio import create_async_engine

from app.purge import BATCH_ROWS, purge
from app.sagas import idempotency, maintenance
from artstore.database import Database
from artstore.database_errors import DatabaseUnavailable
from artstore.metrics import new_registry
from artstore.peers.breaker import Breakers
from artstore.testing.services import PostgresServer

MODULE = Path(__file__).parent.parent
ROWS = 60_000
"""The rows of half a minute at 2 000 uploads a second."""
STATEMENTS = {"sagas": maintenance._PURGE, "idempotency_keys": idempotency._PURGE}
FILL = {
    "sagas": """INSERT INTO sagas (saga_id, kind, state, file_id, storage_element_id, owner, due_at, updated_at)
        SELECT gen_random_uuid(), 'upload', 'committed', gen_random_uuid(), 'se-01', 'owner', NULL,
        now() - interval '30 days' + n * interval '1 ms' FROM generate_series(1, $1::int) AS n""",
    "idempotency_keys": """INSERT INTO idempotency_keys (client_id, key, fingerprint, saga_id, held_until, created_at)
        SELECT 'client', 'key-' || n, 'f', gen_random_uuid(), now() - interval '30 days',
        now() - interval '30 days' + n * interval '1 ms' FROM generate_series(1, $1::int) AS n""",
}
KEEP = {"keep_s": 24 * 3600.0, "now": datetime(2100, 1, 1, tzinfo=UTC)}


@pytest.fixture(scope="module")
async def database_url(postgres: PostgresServer) -> str:
    """A database without a running admin, which would purge every minute."""
    url = postgres.url(await postgres.new_database())
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    await engine.dispose()
    return url


def upgrade(connection: Any) -> None:
    config = Config()
    config.set_main_option("script_location", str(MODULE / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def sql(database_url: str, statement: str, *values: Any) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        return list(await connection.fetch(statement, *values))
    finally:
        await connection.close()


@pytest.fixture
async def databases(database_url: str) -> AsyncIterator[list[Database]]:
    """As three admins have them."""
    engines = [create_async_engine(database_url) for _ in range(3)]
    yield [Database(engine, Breakers(new_registry()).to("postgresql", (DatabaseUnavailable,))) for engine in engines]
    for engine in engines:
        await engine.dispose()


async def left(database_url: str, table: str) -> int:
    return int((await sql(database_url, f"SELECT count(*) FROM {table}"))[0]["count"])


@pytest.mark.parametrize("table", STATEMENTS)
async def test_one_round_deletes_all_that_is_old_and_says_at_what_rate(
    database_url: str, databases: list[Database], table: str, record_property: Any
) -> None:
    before = await left(database_url, table)
    await sql(database_url, FILL[table], ROWS)
    began_s = time.monotonic()
    deleted = await purge(databases[0], STATEMENTS[table], KEEP)
    rate = deleted / (time.monotonic() - began_s)
    record_property("rows_per_second", round(rate))
    assert deleted == ROWS
    assert await left(database_url, table) == before


@pytest.mark.parametrize("table", STATEMENTS)
async def test_several_admins_share_the_work_and_delete_each_row_once(
    database_url: str, databases: list[Database], table: str
) -> None:
    before = await left(database_url, table)
    await sql(database_url, FILL[table], ROWS // 2)
    deleted = await asyncio.gather(*(purge(database, STATEMENTS[table], KEEP) for database in databases))
    assert sum(deleted) == ROWS // 2
    assert await left(database_url, table) == before


@pytest.mark.parametrize("table", STATEMENTS)
async def test_a_locked_row_is_skipped_without_waiting(
    database_url: str, databases: list[Database], table: str
) -> None:
    await sql(database_url, FILL[table], 10)
    holder = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    moment = "updated_at" if table == "sagas" else "created_at"
    async with holder.transaction():
        await holder.fetch(f"SELECT FROM {table} ORDER BY {moment} LIMIT 1 FOR UPDATE")
        async with asyncio.timeout(120):
            assert await purge(databases[0], STATEMENTS[table], KEEP) == 9
    await holder.close()
    assert await purge(databases[0], STATEMENTS[table], KEEP) == 1


@pytest.mark.parametrize("table", STATEMENTS)
async def test_a_batch_is_found_by_an_index(database_url: str, databases: list[Database], table: str) -> None:
    await sql(database_url, FILL[table], ROWS)
    await sql(database_url, f"ANALYZE {table}")
    statement = str(STATEMENTS[table])
    for name, value in {
        ":after": "'1970-01-01Z'",
        ":now": "'2100-01-01Z'",
        ":keep_s": "86400",
        ":batch": str(BATCH_ROWS),
    }.items():
        statement = statement.replace(name, value)
    plan = "\n".join(row[0] for row in await sql(database_url, f"EXPLAIN {statement}"))
    assert f"Seq Scan on {table}" not in plan, plan
    await purge(databases[0], STATEMENTS[table], KEEP)

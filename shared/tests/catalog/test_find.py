"""Lookups in a real PostgreSQL that has no statistics of the table yet, as while a new store is filled."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from artstore.catalog.find import find_files
from artstore.catalog.tables import metadata
from artstore.catalog.write import FileEntry, upsert_files
from artstore.clock import uuid7
from artstore.testing.services import PostgresServer

from .test_write import new_file

GENERIC_PLAN_AFTER = 6
"""Executions of a prepared statement after which PostgreSQL stops planning each one."""
SCANNED = text("SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'files'")


async def test_a_lookup_reads_only_the_rows_it_asks_for_in_a_table_that_has_grown(postgres: PostgresServer) -> None:
    engine = create_async_engine(postgres.url(await postgres.new_database()))
    files = [new_file() for _ in range(500)]
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    async with engine.begin() as connection:
        await connection.execute(text("SELECT 1"))  # begins the transaction of which SCANNED shows the counts
        for _ in range(GENERIC_PLAN_AFTER):
            assert await find_files(connection, [str(uuid7()) for _ in range(50)]) == {}
        await upsert_files(connection, [FileEntry(file, "put") for file in files])
        before = await connection.scalar(SCANNED)
        found = await find_files(connection, [files[0].file_id, str(uuid7()), files[1].file_id])
        assert set(found) == {files[0].file_id, files[1].file_id}
        assert await connection.scalar(SCANNED) == before
    await engine.dispose()

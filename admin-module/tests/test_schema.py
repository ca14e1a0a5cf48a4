from __future__ import annotations

from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from artstore.catalog.tables import metadata


async def test_the_migrations_make_the_tables_that_all_modules_share(admin: Any) -> None:
    engine = create_async_engine(admin.database_url)
    shared = set(metadata.tables)

    def differences(connection: Any) -> list[Any]:
        options = {
            "include_name": lambda name, kind, parents: kind != "table" or name in shared,
            "compare_server_default": True,
        }
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_a_database_made_anew_has_a_higher_registry_version_than_the_one_before(admin: Any) -> None:
    (row,) = await admin.sql("SELECT version, (extract(epoch FROM now()) * 1000)::bigint AS now_ms FROM registry")
    assert row["now_ms"] - 3_600_000 < row["version"] <= row["now_ms"]

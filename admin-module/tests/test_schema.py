from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from artstore.catalog.tables import metadata
from artstore.testing.services import PostgresServer

MODULE = Path(__file__).parent.parent


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


async def test_rows_of_before_are_searched_like_new_ones(postgres: PostgresServer) -> None:
    """Names in decomposed form, and content types with capitals and parameters, as earlier versions kept them."""
    engine = create_async_engine(postgres.url(await postgres.new_database()))
    decomposed = unicodedata.normalize("NFD", "Йод – отчёт")

    def upgrade(connection: Any, revision: str) -> None:
        config = Config()
        config.set_main_option("script_location", str(MODULE / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    async with engine.begin() as connection:
        await connection.run_sync(upgrade, "0003")
        await connection.execute(
            text(
                """INSERT INTO files (file_id, revision, state, storage_element_id, attributes, filename, content_type,
                    size_bytes, owner, tags, metadata, created_at, updated_at, checked_at)
                SELECT gen_random_uuid(), 1, 'available', 'se-01', '{}', :name, type, 0, 'x', ARRAY[:name, 'b', :name],
                    jsonb_build_object(CAST(:name AS text), CAST(:name AS text)), now(), now(), now()
                FROM unnest(ARRAY['Text/Plain', 'TEXT/plain ;charset=UTF-8', 'text/plain;']) AS type"""
            ),
            {"name": decomposed},
        )
        await connection.run_sync(upgrade, "head")
        rows = (await connection.execute(text("SELECT filename, tags, metadata, content_type FROM files"))).all()
    await engine.dispose()
    composed = unicodedata.normalize("NFC", decomposed)
    assert {row.filename for row in rows} == {composed}
    assert all(row.tags == [composed, "b", composed] for row in rows)
    assert all(row.metadata == {composed: composed} for row in rows)
    assert {row.content_type for row in rows} == {"text/plain", "text/plain; charset=UTF-8"}

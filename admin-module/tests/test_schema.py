from __future__ import annotations

import asyncio
import json
import unicodedata
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from app.database_roles import ADMIN, ELEMENT, LOGINS, QUERY
from artstore.catalog.tables import metadata
from artstore.clock import uuid7
from artstore.testing.services import PostgresServer, ValkeyServer, start_postgres, temporary_folder

MODULE = Path(__file__).parent.parent
ONE_FILE = """INSERT INTO files (file_id, revision, state, storage_element_id, attributes, filename, content_type, size_bytes,
        owner, tags, metadata, created_at, updated_at, checked_at)
    VALUES (gen_random_uuid(), 1, 'available', 'se-01', '{}', 'before.txt', 'text/plain', 0, 'x', '{}', '{}', now(), now(),
        now())"""


def upgrade(connection: Any, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MODULE / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


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


async def test_rows_from_before_the_migration_are_searchable(postgres: PostgresServer) -> None:
    """Names in decomposed form, and content types with capitals and parameters, as earlier versions kept them."""
    engine = create_async_engine(postgres.url(await postgres.new_database()))
    decomposed = unicodedata.normalize("NFD", "Йод – отчёт")

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


@pytest.mark.parametrize("with_roles", [False, True])
async def test_a_cluster_from_before_the_roles_is_taken_over_without_manual_steps(
    valkey: ValkeyServer, tmp_path: Path, start: Any, given_environment: Any, eventually: Any, with_roles: bool
) -> None:
    """One superuser `artstore` owns everything. Admin gets only that login, as before, or also the roles to create."""
    with temporary_folder("artstore-before-") as folder:
        postgres = await asyncio.to_thread(start_postgres, folder)
        try:
            owner = await _make_cluster_of_before(postgres)
            roles = tmp_path / "database-roles.json"
            roles.write_text(json.dumps({name: name[-1] * 43 for name in LOGINS}))
            roles.chmod(0o600)
            own = owner.replace("//artstore@", "//artstore_admin@")
            settings = {"DATABASE_OWNER_URL": owner, "DATABASE_ROLES_FILE": str(roles)} if with_roles else {}
            url, process = start(given_environment(own if with_roles else owner, valkey.url(4), tmp_path, **settings))
            async with httpx.AsyncClient(base_url=url, timeout=10) as client:

                async def ready() -> bool:
                    try:
                        return (await client.get("/health/ready")).status_code == 200
                    except httpx.TransportError:
                        return False

                await eventually(ready)
                login = {"client_id": "boss", "client_secret": "b" * 43}
                assert (await client.post("/api/auth/token", json=login)).status_code == 200
            for name in LOGINS if with_roles else ("artstore",):
                connection = await asyncpg.connect(owner.replace("+asyncpg", "").replace("//artstore@", f"//{name}@"))
                assert await connection.fetchval("SELECT filename FROM files") == "before.txt"
                await connection.close()
            process.terminate()
            await asyncio.to_thread(process.wait, 30)
        finally:
            await asyncio.to_thread(postgres.discard)


@pytest.mark.parametrize("login", [ADMIN, ELEMENT])
async def test_a_write_of_a_module_is_in_the_change_feed_and_nothing_of_it_runs_as_the_owner(
    own_admin: Any, tmp_path: Path, login: str
) -> None:
    """Also where modules may make temporary tables, which a name without a schema would find first."""
    roles = tmp_path / "database-roles.json"
    roles.write_text(json.dumps({name: name[-1] * 43 for name in LOGINS}))
    roles.chmod(0o600)
    admin = await own_admin(DATABASE_ROLES_FILE=str(roles))
    url = admin.database_url.replace("+asyncpg", "")
    [database] = await admin.sql("SELECT quote_ident(current_database()) AS name")
    await admin.sql(f"GRANT TEMPORARY ON DATABASE {database['name']} TO {login}")
    connection = await asyncpg.connect(url.replace("//postgres@", f"//{login}@"))
    await connection.execute(
        "CREATE TEMPORARY TABLE changes (txid bigint, position bigint, change text, file_id uuid, revision integer)"
    )
    await connection.execute(
        "CREATE TEMPORARY TABLE claimed_ids (file_id uuid PRIMARY KEY, saga_id uuid, used boolean)"
    )
    await connection.execute("GRANT ALL ON pg_temp.changes, pg_temp.claimed_ids TO PUBLIC")
    await connection.execute(ONE_FILE)
    await connection.execute("UPDATE files SET revision = 2")
    await connection.execute("DELETE FROM files")
    found = await connection.fetchval(
        "SELECT (SELECT count(*) FROM pg_temp.changes) + (SELECT count(*) FROM pg_temp.claimed_ids)"
    )
    await connection.close()
    assert [row["used"] for row in await admin.sql("SELECT used FROM claimed_ids")] == [True]
    written = [row["change"] for row in await admin.sql("SELECT change FROM changes ORDER BY txid, position")]
    assert (found, written) == (0, ["created", "updated", "deleted"])


async def test_no_login_of_a_module_makes_an_extension_that_reads_the_servers_files(
    own_admin: Any, tmp_path: Path
) -> None:
    """On PostgreSQL 17, whose wheel has this extension as compose's image does; that of 18 has none like it."""
    roles = tmp_path / "database-roles.json"
    roles.write_text(json.dumps({name: name[-1] * 43 for name in LOGINS}))
    roles.chmod(0o600)
    admin = await own_admin(DATABASE_ROLES_FILE=str(roles))
    if not await admin.sql("SELECT 1 FROM pg_available_extensions WHERE name = 'file_fdw'"):
        pytest.skip("this PostgreSQL has no file_fdw")
    for login in LOGINS:
        url = admin.database_url.replace("+asyncpg", "").replace("//postgres@", f"//{login}@")
        connection = await asyncpg.connect(url)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("CREATE EXTENSION file_fdw")
        await connection.close()


async def test_the_functions_of_query_write_the_real_tables_whatever_temporary_ones_it_makes(
    own_admin: Any, tmp_path: Path
) -> None:
    roles = tmp_path / "database-roles.json"
    roles.write_text(json.dumps({name: name[-1] * 43 for name in LOGINS}))
    roles.chmod(0o600)
    admin = await own_admin(DATABASE_ROLES_FILE=str(roles))
    [database] = await admin.sql("SELECT quote_ident(current_database()) AS name")
    await admin.sql(f"GRANT TEMPORARY ON DATABASE {database['name']} TO {QUERY}")
    url = admin.database_url.replace("+asyncpg", "").replace("//postgres@", f"//{QUERY}@")
    connection = await asyncpg.connect(url)
    tables = {
        "files": "LIKE public.files INCLUDING ALL",
        "outbox": "channel text, message text",
        "refilled": "file_id uuid PRIMARY KEY, at timestamptz",
        "changes": "txid bigint, change text, file_id uuid, revision integer",
    }
    for table, columns in tables.items():
        await connection.execute(f"CREATE TEMPORARY TABLE {table} ({columns})")
        await connection.execute(f"GRANT ALL ON pg_temp.{table} TO PUBLIC")
    file = {"file_id": str(uuid7()), "revision": 1, "storage_element_id": "se-01"}
    more = {"attributes": "{}", "filename": "a", "content_type": "text/plain", "size_bytes": 0, "owner": "x",
            "tags": [], "metadata": {}, "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}  # fmt: skip
    await connection.execute("SELECT refill_files($1)", json.dumps([file | more]))
    assert await connection.fetchval("SELECT take_back_refilled($1)", json.dumps([file])) == 1
    for table in tables:
        assert await connection.fetchval(f"SELECT count(*) FROM pg_temp.{table}") == 0
    await connection.close()
    written = [row["change"] for row in await admin.sql("SELECT change FROM changes ORDER BY txid, position")]
    assert written == ["created", "deleted"]


async def _make_cluster_of_before(postgres: PostgresServer) -> str:
    """The owner's URL of a database at 0005 with a file in it."""
    connection = await asyncpg.connect(host="127.0.0.1", port=postgres.port, user="postgres", database="postgres")
    await connection.execute("CREATE ROLE artstore SUPERUSER LOGIN")
    await connection.execute("CREATE DATABASE artstore OWNER artstore")
    await connection.close()
    owner = postgres.url("artstore").replace("//postgres@", "//artstore@")
    engine = create_async_engine(owner)
    async with engine.begin() as conn:
        await conn.run_sync(upgrade, "0005")
        await conn.execute(text(ONE_FILE))
    await engine.dispose()
    return owner

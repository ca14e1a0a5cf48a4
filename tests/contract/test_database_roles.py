"""Each module's PostgreSQL login does what its module needs (every test of this folder runs on these logins) and nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest
from support.system import System

KINDS = ("admin", "element", "ingester", "query")
NOT_IN_TRANSACTIONS = ("ALTER SYSTEM", "CREATE DATABASE")
ROOT = Path(__file__).resolve().parents[2]
INSERT_AUDIT = """INSERT INTO audit_events (chain, seq, prev, "timestamp", service, action, user_id, resource, result,
    metadata, signature, hash) VALUES ('{}', 1000000, '', now(), '', '', '', '', '', '{{}}', '', '')"""

FORBIDDEN_TO_ALL = [
    "UPDATE audit_events SET action = 'x'",
    "DELETE FROM audit_events",
    "TRUNCATE audit_events",
    "UPDATE audit_checkpoints SET body = 'x'",
    "DELETE FROM audit_checkpoints",
    "DELETE FROM audit_seals",
    "UPDATE audit_keys SET public_key = 'x'",
    "DELETE FROM audit_keys",
    "ALTER TABLE audit_events DISABLE TRIGGER ALL",
    "ALTER TABLE audit_events DISABLE ROW LEVEL SECURITY",
    "DROP TABLE audit_events",
    "CREATE OR REPLACE FUNCTION audit_events_refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "SET session_replication_role = replica",
    "COPY (SELECT 1) TO PROGRAM 'cat'",
    "COPY (SELECT 1) TO '/tmp/artstore-written'",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT rolpassword FROM pg_authid",
    "ALTER SYSTEM SET fsync = off",
    "CREATE ROLE intruder",
    "ALTER ROLE artstore_pruner LOGIN",
    "ALTER ROLE artstore PASSWORD 'x'",
    "CREATE DATABASE intruder",
    "CREATE SCHEMA intruder",
    "CREATE TABLE intruder ()",
    "CREATE TEMPORARY TABLE audit_seals ()",
    "SET ROLE artstore",
    "SET SESSION AUTHORIZATION artstore",
    "UPDATE alembic_version SET version_num = '0000'",
    "DROP TABLE files",
]
FORBIDDEN_BUT_TO_ADMIN = [
    "SELECT private_sealed FROM signing_keys",
    "SELECT 1 FROM signing_keys",
    "UPDATE signing_keys SET state = 'active'",
    "SELECT secret_hash FROM accounts",
    "UPDATE accounts SET role = 'ADMIN'",
    "INSERT INTO accounts SELECT * FROM accounts",
    "SELECT 1 FROM revocations",
    "DELETE FROM revocations",
    "UPDATE storage_elements SET url = 'http://127.0.0.1:1'",
    "UPDATE registry SET version = 0",
    "UPDATE sagas SET state = 'committed'",
    "DELETE FROM sagas",
    "SELECT private_sealed FROM audit_keys",
    "SELECT user_id FROM audit_events",
    "INSERT INTO audit_checkpoints (number, body) VALUES (1000000, '')",
    "INSERT INTO audit_seals (number, body) VALUES (1000000, '')",
    INSERT_AUDIT.format("admin"),
    "SET ROLE artstore_pruner",
]
FORBIDDEN_TO_BACKUP = [
    *(one for one in FORBIDDEN_BUT_TO_ADMIN if not one.startswith("SELECT")),
    "DELETE FROM backups",
    "UPDATE backups SET ended_at = now()",
    "UPDATE files SET owner = 'x'",
    "INSERT INTO outbox (channel, message) VALUES ('storage-elements:config', '{}')",
]
REFILL = ["SELECT refill_files('[]')", "SELECT take_back_refilled('[]')"]
FORBIDDEN_TO = {
    "admin": REFILL,
    "backup": [*FORBIDDEN_TO_BACKUP, *REFILL],
    "element": ["SELECT 1 FROM idempotency_keys", "UPDATE outbox SET message = 'x'", *REFILL],
    "ingester": [
        *REFILL,
        "UPDATE files SET owner = 'x'",
        "DELETE FROM files",
        "INSERT INTO files SELECT * FROM files",
        "DELETE FROM outbox",
    ],
    "query": [
        "SELECT 1 FROM idempotency_keys",
        "SELECT 1 FROM sagas",
        "DELETE FROM outbox",
        "SELECT 1 FROM outbox",
        "INSERT INTO outbox (channel, message) VALUES ('storage-elements:config', '{}')",
        "INSERT INTO files SELECT * FROM files",
        "UPDATE files SET owner = 'x'",
        "UPDATE files SET checked_at = now()",
        "DELETE FROM files",
        "SELECT 1 FROM refilled",
        "INSERT INTO refilled SELECT file_id, now() FROM files",
    ],
}
CASES = [
    *((kind, statement) for kind in (*KINDS, "backup") for statement in FORBIDDEN_TO_ALL),
    *((kind, statement) for kind in KINDS[1:] for statement in FORBIDDEN_BUT_TO_ADMIN),
    *((kind, statement) for kind, statements in FORBIDDEN_TO.items() for statement in statements),
]


def url_of(system: System, name: str) -> str:
    return (system.keys / name).read_text().strip().replace("+asyncpg", "")


async def attempt(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        if statements[0].startswith(NOT_IN_TRANSACTIONS):
            await connection.execute(statements[0])
            return
        transaction = connection.transaction()
        await transaction.start()
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await transaction.rollback()
    finally:
        await connection.close()


@pytest.mark.parametrize(("kind", "statement"), CASES)
def test_a_login_is_refused_what_its_module_does_not_do(system: System, kind: str, statement: str) -> None:
    if system.data is None:
        pytest.skip("PostgreSQL of a composed system is not reachable from here")
    with pytest.raises(asyncpg.PostgresError) as refused:
        asyncio.run(attempt(url_of(system, f"database-url-{kind}"), statement))
    assert refused.value.sqlstate in ("42501", "0LP01", "22023"), (
        refused.value
    )  # insufficient privilege, or no such role


def test_the_role_that_prunes_deletes_nothing_that_is_not_sealed(system: System) -> None:
    if system.data is None:
        pytest.skip("PostgreSQL of a composed system is not reachable from here")
    for table in ("audit_events", "audit_checkpoints"):
        with pytest.raises(asyncpg.PostgresError, match="takes inserts only"):
            asyncio.run(
                attempt(url_of(system, "database-url-admin"), "SET LOCAL ROLE artstore_pruner", f"DELETE FROM {table}")
            )


def test_every_table_is_granted_on_purpose(system: System) -> None:
    """A table that a migration creates and no list of grants names is admin's alone."""
    if system.data is None:
        pytest.skip("PostgreSQL of a composed system is not reachable from here")

    async def tables() -> set[str]:
        connection = await asyncpg.connect(url_of(system, "database-url"))
        try:
            rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            return {row["tablename"] for row in rows}
        finally:
            await connection.close()

    listed = (ROOT / "admin-module" / "app" / "database_roles.py").read_text()
    assert [name for name in asyncio.run(tables()) if f'"{name}": ' not in listed] == []


def test_no_module_owns_anything_or_is_more_than_a_login(system: System) -> None:
    if system.data is None:
        pytest.skip("PostgreSQL of a composed system is not reachable from here")

    async def rights() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url_of(system, "database-url"))
        try:
            found: list[asyncpg.Record] = await connection.fetch(
                """SELECT rolname FROM pg_roles WHERE rolname LIKE 'artstore\\_%' AND (rolsuper OR rolcreaterole
                OR rolcreatedb OR rolreplication OR rolbypassrls
                OR EXISTS (SELECT FROM pg_class WHERE relowner = pg_roles.oid))"""
            )
            return found
        finally:
            await connection.close()

    assert asyncio.run(rights()) == []

"""PostgreSQL roles: one login per module with exactly the grants its statements need, applied after every
migration.

The migration login owns the schema. No service has its rights at run time, admin included: admin may insert
audit rows but not change or delete them. Only `artstore_pruner`, which admin assumes for pruning alone, may
delete, and the trigger of migration 0006 limits that to rows below a seal.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.logs import get_logger

log = get_logger("admin.schema")

ADMIN, ELEMENT, INGESTER, QUERY = "artstore_admin", "artstore_element", "artstore_ingester", "artstore_query"
BACKUP = "artstore_backup"
"""Reads everything, for pg_dump, and records what ended well. Optional: an operator may dump as another role."""
MODULES = (ADMIN, ELEMENT, INGESTER, QUERY)
LOGINS = (*MODULES, BACKUP)
PRUNER = "artstore_pruner"
"""Cannot log in. Admin assumes it (SET LOCAL ROLE) in the transactions that prune."""
SCRAM_ITERATIONS = 4096

READ = "SELECT"
CHANGE = "SELECT, INSERT, UPDATE, DELETE"
_SHIP_EVENTS = "INSERT, SELECT (chain, seq, signature)"
_SHIP_KEY = "INSERT (chain, public_key), SELECT (chain)"

GRANTS: Mapping[str, Mapping[str, str]] = {
    "accounts": {ADMIN: CHANGE},
    "alembic_version": dict.fromkeys(MODULES, READ),
    "audit_checkpoints": {ADMIN: "SELECT, INSERT", PRUNER: "SELECT, DELETE"},
    "audit_events": {
        ADMIN: "SELECT, INSERT",
        ELEMENT: _SHIP_EVENTS,
        INGESTER: _SHIP_EVENTS,
        QUERY: _SHIP_EVENTS,
        PRUNER: "SELECT, DELETE",
    },
    "audit_keys": {
        ADMIN: "SELECT, INSERT, UPDATE (private_sealed)",
        ELEMENT: _SHIP_KEY,
        INGESTER: _SHIP_KEY,
        QUERY: _SHIP_KEY,
    },
    "audit_seals": {ADMIN: "SELECT, INSERT", PRUNER: READ},
    "backups": {ADMIN: READ, BACKUP: "INSERT"},
    "claimed_ids": {ADMIN: CHANGE},
    "changes": {ADMIN: CHANGE, QUERY: READ},
    "changes_purged": {ADMIN: CHANGE, QUERY: READ},
    "file_search": {ADMIN: CHANGE, QUERY: READ},
    "files": {ADMIN: CHANGE, ELEMENT: CHANGE, INGESTER: READ, QUERY: READ},
    "idempotency_keys": {ADMIN: CHANGE, INGESTER: CHANGE},
    "outbox": {ADMIN: CHANGE, ELEMENT: "SELECT, INSERT, DELETE"},
    "refilled": {},
    "refused_roots": {ADMIN: CHANGE},
    "registry": {ADMIN: CHANGE, ELEMENT: READ},
    "revocations": {ADMIN: CHANGE},
    "sagas": {ADMIN: CHANGE, ELEMENT: READ, INGESTER: READ},
    "search_progress": {ADMIN: CHANGE, QUERY: READ},
    "signing_keys": {ADMIN: CHANGE},
    "storage_elements": {ADMIN: CHANGE},
}
"""By table. A table that is not listed is admin's alone; a test keeps the list complete. BACKUP reads all of them."""

TRIGGERS = ("record_change()", "use_id()")
"""Functions that run as the owner of the schema when a row of `files` changes."""
REFILL = ("refill_files(jsonb)", "take_back_refilled(jsonb)")
"""All that query may write into the catalog."""

_KNOWN = text("SELECT rolname FROM pg_roles WHERE rolname = ANY(CAST(:names AS text[]))")
_OWNS_DATABASE = text("SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()")
_TABLES = text(
    "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND pg_has_role(tableowner, 'USAGE')"
)
# Passed as a setting of the transaction, so that no error message or log line contains it.
_VERIFIER = text("SELECT set_config('artstore.verifier', :verifier, true)")


def read_passwords(path: Path) -> dict[str, str]:
    """The logins' passwords by role name; that of BACKUP may be missing. Raises ValueError."""
    passwords = orjson.loads(path.read_bytes())
    if not isinstance(passwords, dict) or not set(MODULES) <= set(passwords) <= set(LOGINS):
        raise ValueError(f"{path} must hold one password for each of {', '.join(LOGINS)}, and nothing else")
    return {str(name): str(password) for name, password in passwords.items()}


async def apply_grants(conn: AsyncConnection, passwords: Mapping[str, str] | None) -> None:
    """Called as the owner of the schema, in the migration's transaction. Creates the roles when their
    passwords are given; otherwise roles that an operator has created get their grants, and without any role
    nothing happens."""
    known = set((await conn.execute(_KNOWN, {"names": [*LOGINS, PRUNER]})).scalars())
    if passwords:
        await _make_roles(conn, known, passwords)
        known |= {*passwords, PRUNER}
    if not known:
        return
    if missing := {*MODULES, PRUNER} - known:
        log.warning("database roles are missing", missing=sorted(missing))
    schema = await conn.scalar(text("SELECT quote_ident(current_schema())"))
    everyone = ", ".join(sorted(known))
    if await conn.scalar(_OWNS_DATABASE):
        database = await conn.scalar(text("SELECT quote_ident(current_database())"))
        await conn.execute(text(f"REVOKE CREATE, TEMPORARY ON DATABASE {database} FROM PUBLIC, {everyone}"))
    for statement in (
        f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC, {everyone}",
        f"GRANT USAGE ON SCHEMA {schema} TO {everyone}",
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM PUBLIC, {everyone}",
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA {schema} FROM PUBLIC, {everyone}",
        # They run as the owner: a temporary table named `changes`, with a trigger, must not be found before
        # the real one.
        *(f"ALTER FUNCTION {one} SET search_path = {schema}, pg_temp" for one in (*TRIGGERS, *REFILL)),
        *(f"REVOKE ALL ON FUNCTION {one} FROM PUBLIC, {everyone}" for one in REFILL),
        *(f"GRANT EXECUTE ON FUNCTION {one} TO {QUERY}" for one in REFILL if QUERY in known),
    ):
        await conn.execute(text(statement))
    for table in (await conn.execute(_TABLES)).scalars().all():
        for role, privileges in GRANTS.get(table, {ADMIN: CHANGE}).items():
            if role in known:
                await conn.execute(text(f'GRANT {privileges} ON "{table}" TO {role}'))
    if BACKUP in known:
        for kind in ("TABLES", "SEQUENCES"):
            await conn.execute(text(f"GRANT SELECT ON ALL {kind} IN SCHEMA {schema} TO {BACKUP}"))
    if ADMIN in known:
        defaults = f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT"
        await conn.execute(text(f"{defaults} {CHANGE} ON TABLES TO {ADMIN}"))


async def _make_roles(conn: AsyncConnection, known: set[str], passwords: Mapping[str, str]) -> None:
    """Needs CREATEROLE or superuser. Sends passwords as SCRAM verifiers, so that no server log contains
    one."""
    for name, password in passwords.items():
        if name not in known:
            await conn.execute(text(f"CREATE ROLE {name} LOGIN"))
        await conn.execute(_VERIFIER, {"verifier": scram_verifier(password)})
        alter = f"format('ALTER ROLE {name} PASSWORD %L', current_setting('artstore.verifier'))"
        await conn.exec_driver_sql(f"DO $$ BEGIN EXECUTE {alter}; END $$")
    if PRUNER not in known:
        await conn.execute(text(f"CREATE ROLE {PRUNER} NOLOGIN"))
    await conn.execute(text(f"GRANT {PRUNER} TO {ADMIN} WITH INHERIT FALSE, SET TRUE"))


def scram_verifier(password: str) -> str:
    """The form in which PostgreSQL stores a password (RFC 5802, RFC 7677). ASCII only, so that SASLprep
    changes nothing."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored_text, server_text = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{salt_text}${stored_text}:{server_text}"

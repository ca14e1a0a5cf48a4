"""Identifies the database: the identity changes when a dump is restored, a replica promoted or the database
recreated.

An unprivileged role of PostgreSQL 17 and 18 may call all functions used here. If a call is not allowed, that
part is unknown and matches any value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asyncpg import Record
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

UNKNOWN = "-"
_SYSTEM = "(SELECT system_identifier FROM pg_control_system())::text"
_TIMELINE = "CASE WHEN pg_is_in_recovery() THEN '-' ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END"
_DATABASE = "(SELECT oid FROM pg_database WHERE datname = current_database())::text"
_TABLE = "to_regclass('registry')::oid::text"
_RUN = "extract(epoch FROM pg_postmaster_start_time())::text"

_ALLOWED = text(
    """SELECT has_function_privilege('pg_control_system()', 'execute') AS system,
    has_function_privilege('pg_walfile_name(pg_lsn)', 'execute')
    AND has_function_privilege('pg_current_wal_lsn()', 'execute') AS timeline"""
)


@dataclass(frozen=True, slots=True)
class DatabaseIdentity:
    """`value`: system identifier/timeline/database/table. `server_run` also changes with each start of the
    server."""

    value: str
    server_run: str


async def identity_columns(conn: AsyncConnection) -> str:
    """Columns of a SELECT that `identity_in` needs: those that this role may read."""
    allowed = (await conn.execute(_ALLOWED)).one()
    parts = (
        _SYSTEM if allowed.system else f"'{UNKNOWN}'",
        _TIMELINE if allowed.timeline else f"'{UNKNOWN}'",
        _DATABASE,
        _TABLE,
    )
    return f"concat_ws('/', {', '.join(parts)}) AS live_identity, {_RUN} AS server_run"


def identity_in(row: Mapping[str, Any] | Record) -> DatabaseIdentity:
    return DatabaseIdentity(row["live_identity"], f"{row['live_identity']}/{row['server_run']}")


def is_same(stored: str, live: str) -> bool:
    """True if the two identities may belong to the same database."""
    before, now = stored.split("/"), live.split("/")
    return len(before) == len(now) and all(
        UNKNOWN in pair or pair[0] == pair[1] for pair in zip(before, now, strict=True)
    )

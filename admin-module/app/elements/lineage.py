"""Which database this is: what changes when a dump is restored, a replica promoted or a server started again.

All functions used may be called by an unprivileged role of PostgreSQL 17 and 18. Where one is refused, its part is unknown
and equals anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import TextClause, text
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
class Lineage:
    """`identity`: system/timeline/database/table of the data. `run`: the server process that has them."""

    identity: str
    run: str


class LineageQuery:
    """One per process: learns at its first use which functions its role may call."""

    def __init__(self) -> None:
        self._statement: TextClause | None = None

    async def ask(self, conn: AsyncConnection) -> Lineage:
        if self._statement is None:
            allowed = (await conn.execute(_ALLOWED)).one()
            parts = (
                _SYSTEM if allowed.system else f"'{UNKNOWN}'",
                _TIMELINE if allowed.timeline else f"'{UNKNOWN}'",
                _DATABASE,
                _TABLE,
            )
            self._statement = text(f"SELECT concat_ws('/', {', '.join(parts)}) AS identity, {_RUN} AS run")
        row = (await conn.execute(self._statement)).one()
        return Lineage(row.identity, f"{row.identity}/{row.run}")


def is_same(stored: str, live: str) -> bool:
    """Whether two identities may be of one database."""
    before, now = stored.split("/"), live.split("/")
    return len(before) == len(now) and all(
        UNKNOWN in pair or pair[0] == pair[1] for pair in zip(before, now, strict=True)
    )

"""Brings the schema and the grants of the modules' roles up to date. With several admins, an advisory lock
lets one do it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import sqlalchemy.exc
from sqlalchemy import Connection, NullPool, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from artstore.database_errors import outage_of
from artstore.database_hosts import HostConnector, for_sqlalchemy
from artstore.errors import DATABASE, StartRefused, Unavailable
from artstore.logs import get_logger

from .database_roles import apply_grants, read_passwords

MIGRATIONS = Path(__file__).parent.parent / "migrations"
MIGRATION_LOCK = 0x6172_7473_0001
CONNECT_TIMEOUT_S = 10
DATABASE_ERRORS = (
    sqlalchemy.exc.SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)

log = get_logger("admin.schema")

_MAY_MIGRATE = text(
    """SELECT has_schema_privilege(current_schema(), 'CREATE') AND NOT EXISTS (SELECT FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relname = 'alembic_version'
    AND NOT pg_has_role(relowner, 'USAGE'))"""
)


class Schema:
    """`url`: the login that owns the schema, or admin's own. If that login may not migrate, `migrate` only
    checks that `python -m app.migrate` has run."""

    def __init__(self, url: str, roles_file: Path | None) -> None:
        self._url, self._roles_file = url, roles_file
        self._granted = False

    async def migrate(self) -> None:
        """Upgrade to the newest revision and apply its grants in one transaction. Raises Unavailable, and StartRefused
        if a later version has migrated the schema: it may not be used as what this version knows."""
        async with self._connect() as conn:
            await conn.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            was, newest = await conn.run_sync(_revisions)
            if was is not None and was > newest:
                raise StartRefused(
                    f"the schema is at revision {was}, but this version knows only {newest}: start the version that"
                    " has migrated it, or restore a backup from before (docs/operations/upgrading.md)"
                )
            if not await conn.scalar(_MAY_MIGRATE):
                if was is None or was < newest:
                    raise Unavailable(
                        f"the schema is at revision {was}, but {newest} is required: run the migrations",
                        away=DATABASE,
                    )
                return
            if was != newest:
                await conn.run_sync(_upgrade)
            if was != newest or not self._granted:
                passwords = read_passwords(self._roles_file) if self._roles_file else None
                await apply_grants(conn, passwords)
        self._granted = True
        if was != newest:
            log.info("schema migrated", was=was, now=newest)

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[AsyncConnection]:
        """A separate connection without the pool's command timeout, because building an index may take
        long."""
        engine = create_async_engine(
            for_sqlalchemy(self._url),
            poolclass=NullPool,
            hide_parameters=True,
            connect_args={
                "async_creator_fn": HostConnector(),
                "timeout": CONNECT_TIMEOUT_S,
                "server_settings": {"application_name": "artstore migrations"},
            },
        )
        try:
            async with engine.begin() as conn:
                yield conn
        except DATABASE_ERRORS as error:
            outage = outage_of(error)
            if outage is None:
                raise
            raise outage from error
        finally:
            await engine.dispose()


def _revisions(connection: Connection) -> tuple[str | None, str]:
    """The schema's revision and the newest one, without Alembic: it takes 7 MB of memory, and most starts migrate nothing."""
    newest = max(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None, newest
    return connection.scalar(text("SELECT version_num FROM alembic_version")), newest


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")

"""Brings the schema up to date at start. Several admins may try at once: an advisory lock lets one do it."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from artstore.database import Database
from artstore.logs import get_logger

MIGRATIONS = Path(__file__).parent.parent / "migrations"
MIGRATION_LOCK = 0x6172_7473_0001

log = get_logger("admin.schema")


async def migrate(database: Database) -> None:
    """To the newest revision, in one transaction: a crash leaves the schema as it was. Raises DatabaseAway."""
    async with database.begin() as conn:
        await conn.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        was, now = await conn.run_sync(_upgrade)
    if was != now:
        log.info("schema migrated", was=was, now=now)


def _upgrade(connection: Connection) -> tuple[str | None, str | None]:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    was = MigrationContext.configure(connection).get_current_revision()
    newest = ScriptDirectory.from_config(config).get_current_head()
    if was != newest:
        command.upgrade(config, "head")
    return was, newest

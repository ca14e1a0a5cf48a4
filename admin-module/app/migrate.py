"""`python -m app.migrate`: migrates the schema as its owner, so that no running module needs the owner's
login.

Waits until PostgreSQL is available, migrates, and ends.
"""

from __future__ import annotations

import asyncio
import sys

from artstore.config import load_settings
from artstore.errors import StartRefused, Unavailable
from artstore.logs import configure_logs, get_logger

from .core.config import MigrationSettings
from .schema import Schema

RETRY_S = 1.0
REFUSED = 3
"""Exit status, as of a service whose start is refused."""

log = get_logger("admin.schema")


async def migrate(settings: MigrationSettings) -> None:
    schema = Schema(settings.database_owner_url.get_secret_value(), settings.database_roles_file)
    while True:
        try:
            await schema.migrate()
        except Unavailable as error:
            log.warning("the schema cannot be migrated yet", reason=error.detail)
            await asyncio.sleep(RETRY_S)
        else:
            return


def main() -> None:
    settings = load_settings(MigrationSettings)
    configure_logs("migrations", settings.log_level, settings.log_format)
    try:
        asyncio.run(migrate(settings))
    except StartRefused as error:
        log.critical("migration refused", reason=str(error))
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()

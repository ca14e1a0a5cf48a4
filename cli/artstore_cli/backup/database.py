"""PostgreSQL's side of a backup: pg_dump, pg_restore beside the present database, and the record of a backup that ended well."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import asyncpg

from artstore.local import postgres
from artstore.local.ports import LOOPBACK

from ..errors import CommandError

CONNECT_TIMEOUT_S = 10
WAIT_S = 60
POLL_S = 1.0
RESTORING = "artstore_restoring"
NOWHERE = "http://127.0.0.1:9"
"""The discard port, where nothing answers."""
_FORGET_ADDRESSES = f"""UPDATE storage_elements SET url = '{NOWHERE}', public_url = NULL, status = 'away',
    away_reason = 'restored from a backup; it has not reported since'"""  # noqa: S608
MAINTENANCE = "postgres"
"""The database that every cluster has, in which others can be created and renamed."""


@dataclass(frozen=True, slots=True)
class Login:
    url: str
    """A libpq URI without the password, which a command line would show."""
    password: str = field(repr=False)

    @property
    def database(self) -> str:
        return urlsplit(self.url).path.lstrip("/")

    def of(self, database: str) -> Login:
        return Login(urlunsplit(urlsplit(self.url)._replace(path=f"/{database}")), self.password)


def parse_login(text: str) -> Login:
    """From `postgresql+asyncpg://USER:PASSWORD@HOST:PORT/DATABASE`, as in keys/database-url."""
    parts = urlsplit(text.strip().replace("+asyncpg", "", 1))
    user, at, hosts = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    return Login(urlunsplit(parts._replace(netloc=name + at + hosts)), unquote(password))


def local_login(port: int, password: str) -> Login:
    return Login(f"postgresql://{postgres.ROLE}@{LOOPBACK}:{port}/{postgres.DATABASE}", password)


def dump(login: Login, target: Path) -> None:
    """All of the database as of one moment, in pg_dump's own compressed format. Raises CommandError."""
    with target.open("wb") as out:
        os.fchmod(out.fileno(), 0o600)
        # Without this option pg_dump refuses tables with row security; their policies let every login read every row.
        _run(login, "pg_dump", ["--format=custom", "--enable-row-security"], stdout=out)


def fill(login: Login, source: Path) -> None:
    """Restore the dump into an empty database. Roles and their rights are not part of it: migrations make them again.

    The addresses of elements are forgotten until each reports its own: the system that was backed up may still run there,
    and a copy of it, which has the same keys, must not change its files.
    """
    options = ["--exit-on-error", "--no-owner", "--no-privileges"]
    with source.open("rb") as dumped:
        _run(login, "pg_restore", options, stdin=dumped)
    _on(login, lambda connection: connection.execute(_FORGET_ADDRESSES))


def record(login: Login, began: datetime, ended: datetime) -> None:
    """Admin exports the newest of these as a metric. Raises CommandError."""

    async def insert(connection: asyncpg.Connection) -> None:
        await connection.execute("INSERT INTO backups (began_at, ended_at) VALUES ($1, $2)", began, ended)

    _on(login, insert)


def restore_beside(owner: Login, source: Path, replaced: str) -> None:
    """Restore the dump into a new database, then give both their names in one transaction. Raises CommandError.

    The present database is kept as `replaced`. A restore that is cut off leaves it as it was.
    """
    server = owner.of(MAINTENANCE)
    retried(lambda: _on(server, lambda connection: connection.execute("SELECT 1")))
    _on(server, lambda connection: _require_unused(connection, owner.database))
    _on(server, _make_empty)
    fill(owner.of(RESTORING), source)

    async def swap(connection: asyncpg.Connection) -> None:
        await _require_unused(connection, owner.database)
        async with connection.transaction():
            await connection.execute(f'ALTER DATABASE "{owner.database}" RENAME TO "{replaced}"')
            await connection.execute(f'ALTER DATABASE {RESTORING} RENAME TO "{owner.database}"')

    _on(server, swap)


async def _make_empty(connection: asyncpg.Connection) -> None:
    await connection.execute(f"DROP DATABASE IF EXISTS {RESTORING}")
    await connection.execute(f"CREATE DATABASE {RESTORING} TEMPLATE template0")


async def _require_unused(connection: asyncpg.Connection, database: str) -> None:
    users = await connection.fetchval(
        "SELECT string_agg(DISTINCT usename, ', ') FROM pg_stat_activity WHERE datname = $1", database
    )
    if users:
        raise CommandError(f"the database is in use by {users}: stop the modules first")


def retried(attempt: Callable[[], None]) -> None:
    """For a server that has only just been started."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        try:
            return attempt()
        except CommandError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(POLL_S)


def _on(login: Login, work: Callable[[asyncpg.Connection], Awaitable[object]]) -> None:
    async def connect() -> None:
        connection = await asyncpg.connect(login.url, password=login.password, timeout=CONNECT_TIMEOUT_S)
        try:
            await work(connection)
        finally:
            await connection.close()

    try:
        asyncio.run(connect())
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandError(f"PostgreSQL: {error or type(error).__name__}") from error


def _run(login: Login, program: str, options: list[str], **streams: object) -> None:
    command = [str(postgres.load_program(None) / "bin" / program), "--no-password", *options, "--dbname", login.url]
    done = subprocess.run(
        command,
        env={**postgres.ENVIRONMENT, "PGPASSWORD": login.password, "PGCONNECT_TIMEOUT": str(CONNECT_TIMEOUT_S)},
        stderr=subprocess.PIPE,
        text=True,
        **streams,  # type: ignore[call-overload]
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise CommandError(f"{program} failed: {next((one for one in lines if 'error:' in one), lines[-1])}")

"""Backups of a fleet's PostgreSQL and what an operator does with them: a dump restored into a new database, a data folder
copied back, or the database lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from artstore.local.postgres import ENVIRONMENT, HERE, find_account, load_program

from .fleet import Fleet, make_database

KINDS = ("dump", "folder", "nothing")
"""The kinds of restore: a pg_dump, a copy of the data folder, or no backup at all."""
COMMAND_TIMEOUT_S = 120


def back_up(fleet: Fleet, kind: str) -> Path:
    """Copies the database as it is now, while the services run."""
    copy = fleet.folder / f"backup-{kind}"
    if kind == "dump":
        _run(fleet, "pg_dump", "-Fc", "-f", str(copy), _url(fleet, fleet.database))
    elif kind == "folder":
        fleet.postgres.stop()
        shutil.copytree(fleet.folder / "postgres", copy)
        fleet.start_postgres()
    return copy


def restore(fleet: Fleet, kind: str, backup: Path) -> None:
    """Nothing else of the fleet runs."""
    if kind == "folder":
        fleet.postgres.stop()
        shutil.rmtree(fleet.folder / "postgres")
        shutil.copytree(backup, fleet.folder / "postgres")
        _give_to_its_user(fleet.folder / "postgres")
        fleet.start_postgres()
        return
    _run(fleet, "psql", "-c", f"DROP DATABASE {fleet.database} WITH (FORCE)", _url(fleet, "postgres"))
    make_database(fleet)
    if kind == "dump":
        _run(fleet, "pg_restore", "-d", _url(fleet, fleet.database), str(backup))


def copy_for_standby(fleet: Fleet, folder: Path) -> None:
    """The data folder of a streaming standby of the fleet's server, in `folder`, made while all runs (pg_basebackup)."""
    data = folder / "postgres"
    source = ["-h", "127.0.0.1", "-p", str(fleet.postgres.port), "-U", "postgres"]
    _run(fleet, "pg_basebackup", *source, "-D", str(data), "-X", "stream", "-c", "fast", "-R", "--no-sync")
    _give_to_its_user(data)


def follow(data: Path, port: int) -> None:
    """The stopped server of this data folder will be a standby of the one at `port`."""
    (data / "standby.signal").touch()
    conninfo = f"primary_conninfo = 'host=127.0.0.1 port={port} user=postgres'\n"
    with (data / "postgresql.auto.conf").open("a") as file:
        file.write(conninfo)
    _give_to_its_user(data)


def rewind(data: Path, port: int) -> None:
    """The stopped server of this data folder becomes a standby of the one at `port`, and forgets what only it has
    (pg_rewind)."""
    account = find_account(data)
    program = load_program(account) / "bin" / "pg_rewind"
    source = f"host=127.0.0.1 port={port} user=postgres dbname=postgres"
    done = subprocess.run(
        [program, "--target-pgdata", HERE, "--source-server", source, "--write-recovery-conf", "--no-sync"],
        capture_output=True,
        text=True,
        cwd=data,
        env=ENVIRONMENT,
        user=account.uid if account else None,
        group=account.gid if account else None,
        timeout=COMMAND_TIMEOUT_S,
    )
    assert done.returncode == 0, f"pg_rewind: {done.stderr}"


def _run(fleet: Fleet, program: str, *arguments: str) -> None:
    path = load_program(find_account(fleet.folder / "postgres")) / "bin" / program
    done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    assert done.returncode == 0, f"{program}: {done.stderr}"


def _url(fleet: Fleet, database: str) -> str:
    return fleet.postgres.url(database).replace("+asyncpg", "")


def _give_to_its_user(folder: Path) -> None:
    """A copy made by root is root's; PostgreSQL runs as another user."""
    account = find_account(folder.parent / "none")
    if account is None:
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, account.uid, account.gid)

"""PostgreSQL on a folder of its own, with a password, made whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from artstore.postgres_wheel import ENVIRONMENT, HERE, Account

from .processes import Command
from .refusal import Refused, refused_by_disk

ROLE = "artstore"
DATABASE = "artstore"
DATABASE_AT_INIT = "postgres"
MAX_CONNECTIONS = 200
"""Covers the sum of the services' pools, each at most 20 and 10 more."""
INIT_TIMEOUT_S = 60
CLIENTS = "# Written by ./artstore up: passwords, from this machine only.\nhost all all 127.0.0.1/32 scram-sha-256\n"


def initialise(data: Path, program: Path, account: Account | None, password: str) -> None:
    """Makes the database cluster if there is none. All is made in a folder beside and renamed: a crash before the rename leaves
    only that folder, which the next start removes."""
    unfinished = data.with_name(data.name + ".new")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        if data.exists() and any(data.iterdir()):
            if not (data / "PG_VERSION").exists():
                raise Refused(
                    f"{data} holds no whole PostgreSQL (no PG_VERSION); move it away to start with an empty one"
                )
            return
        unfinished.mkdir(mode=0o700)
        if account:
            os.chown(unfinished, account.uid, account.gid)
        _make_cluster(unfinished, program, account, password)
        (unfinished / "pg_hba.conf").write_text(CLIENTS)
        _run([program / "bin" / "initdb", "-D", HERE, "--sync-only"], unfinished, account)
        unfinished.replace(data)
    except OSError as error:
        raise refused_by_disk(error, data) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _make_cluster(folder: Path, program: Path, account: Account | None, password: str) -> None:
    initdb, postgres = program / "bin" / "initdb", program / "bin" / "postgres"
    locale = ["--encoding=UTF8", "--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    _run([initdb, "-D", HERE, "-U", ROLE, "--auth=trust", *locale, "--no-instructions", "--no-sync"], folder, account)
    single: list[Path | str] = [postgres, "--single", "-D", HERE, "-c", "unix_socket_directories=", DATABASE_AT_INIT]
    statements = f"ALTER ROLE {ROLE} PASSWORD '{password}'\nCREATE DATABASE {DATABASE}\n"
    said = _run(single, folder, account, statements)
    if "ERROR" in said or "FATAL" in said:
        raise Refused(f"PostgreSQL cannot make its database: {said.strip().splitlines()[-1]}")


def _run(arguments: Sequence[Path | str], folder: Path, account: Account | None, text: str = "") -> str:
    done = subprocess.run(
        arguments,
        input=text,
        env=ENVIRONMENT,
        cwd=folder,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=INIT_TIMEOUT_S,
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower() or "FATAL" in line] or [
            done.stderr
        ]
        raise Refused(f"PostgreSQL cannot make its data folder: {lines[0].strip()}")
    return done.stderr


def serve(data: Path, program: Path, account: Account | None, port: int, log: Path) -> Command:
    """What runs the server. SIGINT is its fast shutdown: clients are cut off, nothing is lost."""
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": str(MAX_CONNECTIONS),
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return Command(
        [str(program / "bin" / "postgres"), "-D", HERE, *options], ENVIRONMENT, data, log, signal.SIGINT, account
    )


def is_ready(data: Path, pid: int) -> bool:
    """Reads the server's own word in postmaster.pid, as pg_ctl does: line 1 is the pid, line 8 the state."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

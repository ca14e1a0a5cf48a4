"""PostgreSQL in a backup: pg_dump of the running server, and a new cluster from such a dump."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from artstore.local import postgres
from artstore.local.ports import LOOPBACK, choose_ports

from ..data_folder import DataFolder, find_ports, find_record
from ..errors import CommandError
from ..fleet import POSTGRES
from ..parts import serve_postgres
from ..processes import identify, spawn
from ..system import stop_processes

PASSWORD = "postgres-password"
READY_TIMEOUT_S = 120
POLL_S = 0.1


@contextmanager
def running_postgres(folder: DataFolder) -> Iterator[int]:
    """The port of the folder's PostgreSQL, which is started for the time being when it does not run."""
    record = find_record(folder)
    running = record.processes.get(POSTGRES) if record is not None else None
    if running is not None and running.alive():
        yield find_ports(folder)[POSTGRES]
        return
    with folder.locked(), _started(folder) as port:
        yield port


@contextmanager
def _started(folder: DataFolder) -> Iterator[int]:
    """Call with the folder locked."""
    port = choose_ports([POSTGRES], {})[POSTGRES]
    account = postgres.find_account(folder.postgres)
    process = spawn(serve_postgres(folder, postgres.load_program(account), account, port))
    identity = identify(process)
    try:
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while not postgres.is_ready(folder.postgres, process.pid):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise CommandError(f"PostgreSQL does not start on {folder.postgres}; see {folder.log(POSTGRES)}")
            time.sleep(POLL_S)
        yield port
    finally:
        stop_processes([(identity, signal.SIGINT)], [process])


def dump(folder: DataFolder, target: Path) -> None:
    """All of the database as of one moment, in pg_dump's own compressed format. Raises CommandError."""
    with running_postgres(folder) as port, target.open("wb") as out:
        os.fchmod(out.fileno(), 0o600)
        _run(
            (folder.keys / PASSWORD).read_text(),
            port,
            "pg_dump",
            ["--format=custom", "--dbname", postgres.DATABASE],
            stdout=out,
        )


def restore(folder: DataFolder, source: Path, make_room: Callable[[], None]) -> None:
    """A new `folder.postgres` with the content of the dump. The folder is locked. Raises CommandError.

    The cluster is built elsewhere; when it is whole, `make_room` moves the present one away and it is renamed. Roles and
    their rights are not part of a dump: the next start of admin makes them again.
    """
    building = DataFolder(folder.restoring)
    shutil.rmtree(building.path, ignore_errors=True)
    building.logs.mkdir(mode=0o711, parents=True)
    account = postgres.find_account(folder.postgres)
    password = (folder.keys / PASSWORD).read_text()
    try:
        postgres.create_cluster(building.postgres, postgres.load_program(account), account, password)
    except postgres.CannotRun as error:
        raise CommandError(str(error)) from None
    options = ["--exit-on-error", "--no-owner", "--no-privileges", "--dbname", postgres.DATABASE]
    with _started(building) as port, source.open("rb") as dumped:
        _run(password, port, "pg_restore", options, stdin=dumped)
    make_room()
    building.postgres.rename(folder.postgres)
    shutil.rmtree(building.path)


def _run(password: str, port: int, program: str, options: list[str], **streams: object) -> None:
    command = [str(postgres.load_program(None) / "bin" / program), "-h", LOOPBACK, "-p", str(port), "-U", postgres.ROLE]
    environment = {**postgres.ENVIRONMENT, "PGPASSWORD": password}
    done = subprocess.run(
        [*command, "--no-password", *options],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        **streams,  # type: ignore[call-overload]
    )
    if done.returncode != 0:
        raise CommandError(
            f"{program} failed: {done.stderr.strip().splitlines()[-1] if done.stderr else done.returncode}"
        )

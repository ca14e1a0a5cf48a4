"""`up`: makes the data folder ready, starts everything, stays with it until it is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from . import leftovers
from .data_folder import DataFolder, Record, find_ports, keep_ports
from .fleet import POSTGRES, VALKEY, Site, fleet
from .parts import port_names, services, stores
from .ports import LOOPBACK, choose, require_free
from .processes import ProcessId, find_started
from .refusal import Refused, refused_by_disk
from .reporting import Progress, Unbroken
from .system import Interrupted, Misconfigured, System
from .welcome import welcome

KEYS_TIMEOUT_S = 30
KEYS_OF_THE_DATABASE = ("postgres-password", "key-encryption-key", "secret-hash-key", "accounts.json")
"""What a database was made with: new ones would not open it."""


def up(
    root: Path, folder: DataFolder, *, port_base: int, s3: bool, on_started: Callable[[bool], None] = lambda ready: None
) -> int:
    """Runs the system until it is interrupted. Returns the exit code. `on_started` is called once, with whether all is ready."""
    progress = Progress(Unbroken(), Unbroken(stderr=True))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        folder.prepare()
        with folder.locked():
            return _hold(root, folder, port_base, s3, progress, on_started)
    except Refused as error:
        progress.error(str(error))
    except Interrupted:
        progress.error("interrupted")
    except OSError as error:
        progress.error(str(refused_by_disk(error, folder.path)))
    return 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def _hold(
    root: Path, folder: DataFolder, port_base: int, s3: bool, progress: Progress, on_started: Callable[[bool], None]
) -> int:
    leftovers.clear(folder)
    ports = choose(port_names(s3), find_ports(folder))
    site = Site(root, folder, port_base, ports["s3.port"] if s3 else None)
    require_free({service.name: port_base + service.port_offset for service in fleet(site)})
    keep_ports(folder, ports)
    _require_keys(folder)
    _make_keys(site, ports[POSTGRES], ports[VALKEY])
    record = Record(port_base, ProcessId(os.getpid(), find_started(os.getpid()) or -1))
    system = System(folder, record, progress)
    started = False
    try:
        unready = system.start([*stores(site, ports), *services(site)])
        started = record.ready = True
        with contextlib.suppress(OSError):
            record.save(folder)
        if unready:
            progress.not_ready(unready)
        else:
            progress.say(welcome(site))
        on_started(not unready)
        system.watch()
    except Interrupted:
        pass
    except Misconfigured as error:
        raise Refused(str(error).removeprefix("artstore: ")) from None
    finally:
        # A second Ctrl-C must not leave half of the system running: stopping has its own time limit.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        system.stop()
    return 0 if started else 1


def _require_keys(folder: DataFolder) -> None:
    lost = [name for name in KEYS_OF_THE_DATABASE if not (folder.keys / name).exists()]
    if lost and (folder.postgres / "PG_VERSION").exists():
        raise Refused(
            f"{folder.keys / lost[0]} is missing, and {folder.postgres} was made with it; put it back, "
            "or move the database away to start with an empty one"
        )


def _make_keys(site: Site, postgres_port: int, valkey_port: int) -> None:
    addresses = [f"--database={LOOPBACK}:{postgres_port}", f"--redis={LOOPBACK}:{valkey_port}"]
    program = [sys.executable, str(site.root / "keys" / "generate.py"), str(site.data.keys), *addresses]
    done = subprocess.run(program, capture_output=True, text=True, timeout=KEYS_TIMEOUT_S)
    if done.returncode != 0:
        raise Refused(done.stderr.strip().splitlines()[-1])

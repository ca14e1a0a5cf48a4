"""`up`: prepares the data folder, starts everything, and watches it until it is stopped."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from artstore.local.ports import LOOPBACK, choose_ports, is_free

from .data_folder import GATEWAY_OFFSET, DataFolder, Record, find_ports, keep_ports
from .errors import CommandError, disk_error
from .fleet import GATEWAY, POSTGRES, VALKEY, Site, fleet, own_port_names
from .output import Output
from .parts import fork_server, port_names, services, stores
from .process_id import ProcessId, find_started
from .reporting import JsonProgress, PipeSafeConsole, Progress
from .running import stop_leftovers
from .system import Interrupted, Misconfigured, System

KEYS_TIMEOUT_S = 30
KEYS_OF_THE_DATABASE = ("postgres-password", "key-encryption-key", "secret-hash-key", "accounts.json")
"""The keys that an existing database depends on; new ones would not open it."""


def up(
    root: Path,
    folder: DataFolder,
    *,
    port_base: int,
    s3: bool,
    scale: Mapping[str, int],
    out: Output,
    on_started: Callable[[bool], None] = lambda ready: None,
) -> int:
    """Run the system until it is interrupted. Returns the exit code. `on_started` is called once, with whether all is ready."""
    progress = JsonProgress(out) if out.as_json else Progress(PipeSafeConsole(), PipeSafeConsole(stderr=True))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        folder.prepare()
        with folder.locked():
            return _hold(root, folder, port_base, s3, scale, progress, on_started)
    except CommandError as error:
        progress.error(error)
    except Interrupted:
        progress.error(CommandError("interrupted", code="interrupted"))
    except OSError as error:
        progress.error(disk_error(error, folder.path))
    return 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def _hold(
    root: Path,
    folder: DataFolder,
    port_base: int,
    s3: bool,
    scale: Mapping[str, int],
    progress: Progress,
    on_started: Callable[[bool], None],
) -> int:
    stop_leftovers(folder)
    ports = choose_ports(port_names(s3, scale), find_ports(folder))
    own_ports = {name: [ports[port] for port in names] for name, names in own_port_names(scale).items()}
    site = Site(root, folder, port_base, ports["s3.port"] if s3 else None, own_ports)
    offsets = {**{service.name: service.port_offset for service in fleet(site)}, GATEWAY: GATEWAY_OFFSET}
    require_free({name: port_base + offset for name, offset in offsets.items()})
    keep_ports(folder, ports)
    _require_keys(folder)
    _make_keys(site, ports[POSTGRES], ports[VALKEY])
    record = Record(port_base, ProcessId(os.getpid(), find_started(os.getpid()) or -1), own_ports=own_ports)
    system = System(folder, record, progress)
    started = False
    try:
        server = fork_server(site)
        server.start()
        unready = system.start([*stores(site, ports), *services(site, server)])
        started = record.ready = True
        with contextlib.suppress(OSError):
            record.save(folder)
        if unready:
            progress.not_ready(unready)
        progress.started(welcome(site), summary(site, unready))
        on_started(not unready)
        system.watch()
    except Interrupted:
        pass
    except Misconfigured as error:
        raise CommandError(str(error).removeprefix("artstore: ")) from None
    finally:
        # Ignore a second Ctrl-C, which would leave half of the system running. Stopping has its own time limit.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        system.stop()
    return 0 if started else 1


def _require_keys(folder: DataFolder) -> None:
    if folder.restoring.exists() and not folder.postgres.exists():
        raise CommandError(
            "a restore of the database was interrupted; run it again: ./artstore restore DIR --only postgres"
        )
    lost = [name for name in KEYS_OF_THE_DATABASE if not (folder.keys / name).exists()]
    if lost and (folder.postgres / "PG_VERSION").exists():
        raise CommandError(
            f"{folder.keys / lost[0]} is missing, and {folder.postgres} was created with it; restore it, "
            "or move the database away to start with an empty one"
        )


def _make_keys(site: Site, postgres_port: int, valkey_port: int) -> None:
    addresses = [f"--database={LOOPBACK}:{postgres_port}", f"--redis={LOOPBACK}:{valkey_port}"]
    program = [sys.executable, str(site.root / "keys" / "generate.py"), str(site.data.keys), *addresses]
    done = subprocess.run(program, capture_output=True, text=True, timeout=KEYS_TIMEOUT_S)
    if done.returncode != 0:
        raise CommandError(done.stderr.strip().splitlines()[-1])


def require_free(wanted: Mapping[str, int]) -> None:
    """Raises CommandError for the first service whose port is not free."""
    for name, port in wanted.items():
        if not 1 <= port <= 65535:
            raise CommandError(f"port {port} for {name} does not exist; choose another --port-base")
        if not is_free(port):
            raise CommandError(f"port {port} for {name} is taken by another program; choose another --port-base")


def summary(site: Site, unready: Sequence[str]) -> dict[str, Any]:
    """The object that `up --json` prints. `unready`: parts that are not ready, with their reasons."""
    return {
        "address": site.url(GATEWAY_OFFSET),
        "ready": not unready,
        "not_ready": list(unready),
        "credentials": str(site.data.keys / "admin-client.json"),
        "logs": str(site.data.logs),
    }


def welcome(site: Site) -> str:
    address = site.url(GATEWAY_OFFSET)
    lines = [
        "",
        "ArtStore is ready.",
        "",
        f"  address      {address}",
        f"  reference    {address}/docs",
        f"  credentials  {site.data.keys / 'admin-client.json'}",
        f"  logs         {site.data.logs}",
        "",
        "Store this project's README and get it back:",
        "",
        *first_file(site),
        "",
    ]
    return "\n".join(lines)


def first_file(site: Site) -> list[str]:
    """Two shell lines: store a file, get it back and compare."""
    command, readme = shlex.quote(_near(site.root / "artstore")), shlex.quote(_near(site.root / "README.md"))
    command = command if "/" in command else f"./{command}"
    data = f"--data {shlex.quote(_near(site.data.path))}"
    return [
        f"ID=$({command} put {readme} {data} | cut -f1)",
        f'{command} get "$ID" -o - {data} | cmp - {readme} && echo identical',
    ]


def _near(path: Path) -> str:
    """The path relative to the working directory if it is below it, else the absolute path."""
    near = os.path.relpath(path)
    return str(path) if near.startswith("..") else near

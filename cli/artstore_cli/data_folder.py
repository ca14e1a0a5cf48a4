"""The data folder of a local system: its layout, its lock, and the record of its running processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .errors import CommandError, disk_error
from .process_id import ProcessId, boot_id

LEAST_FREE_BYTES = 256 * 1024 * 1024
"""PostgreSQL's first files and write-ahead log take about 60 MiB; below this a first start would fail half-way.
A later start needs no additional space."""
GATEWAY_OFFSET = 80
"""Port of the gateway above the base of the ports."""


@dataclass(frozen=True, slots=True)
class DataFolder:
    path: Path

    @property
    def postgres(self) -> Path:
        return self.path / "postgres"

    @property
    def restoring(self) -> Path:
        """`restore` builds a database here before it takes the place of the present one."""
        return self.path / ".restoring"

    @property
    def valkey(self) -> Path:
        return self.path / "valkey"

    @property
    def seaweedfs(self) -> Path:
        return self.path / "seaweedfs"

    @property
    def gateway(self) -> Path:
        return self.path / "gateway"

    @property
    def elements(self) -> Path:
        return self.path / "elements"

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def known(self) -> Path:
        """Copies of public keys and the registry, with which services can start while others are unavailable."""
        return self.path / "known"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def record(self) -> Path:
        return self.path / "running.json"

    @property
    def ports(self) -> Path:
        """The ports of PostgreSQL and Valkey, which stay the same while they are free."""
        return self.path / "ports.json"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def prepare(self) -> None:
        """Create the folders. Raises CommandError when the location cannot be used."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.logs, self.known, self.elements):
                folder.mkdir(exist_ok=True)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise CommandError(f"cannot write to {self.path}: Permission denied")
            free = shutil.disk_usage(self.path).free
        except OSError as error:
            raise disk_error(error, self.path) from error
        if free < LEAST_FREE_BYTES and not (self.postgres / "PG_VERSION").exists():
            raise CommandError(
                f"no space left on the disk of {self.path}: {free >> 20} MiB free, {LEAST_FREE_BYTES >> 20} needed"
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for this process. Raises CommandError when another `up` has locked it."""
        try:
            lock = (self.path / "lock").open("a")
        except OSError as error:
            raise disk_error(error, self.path) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CommandError(
                    f"a system already runs on {self.path}; stop it with: ./artstore down --data {self.path}"
                ) from None
            yield

    def is_locked(self) -> bool:
        """True if a launcher is running on this folder."""
        if not (self.path / "lock").exists():
            return False
        try:
            with self.locked():
                return False
        except CommandError:
            return True


@dataclass(slots=True)
class Record:
    """The processes that run on a data folder. Stored in running.json for `down`, `status` and the next `up`."""

    port_base: int
    launcher: ProcessId
    ready: bool = False
    processes: dict[str, ProcessId] = field(default_factory=dict)
    """In start order."""
    own_ports: dict[str, list[int]] = field(default_factory=dict)
    """By service that runs as several processes, the port at which each alone is reached."""
    faults: dict[str, str] = field(default_factory=dict)
    """By part that died and has not become ready since: how and how often it died."""

    def save(self, folder: DataFolder) -> None:
        text = json.dumps({"boot_id": boot_id(), **asdict(self)}, indent=1)
        _replace(folder.record, text)


def find_record(folder: DataFolder) -> Record | None:
    """None when nothing was started here since the last boot, or the record is damaged."""
    try:
        kept = json.loads(folder.record.read_text())
        if kept.pop("boot_id") != boot_id():
            return None
        kept["launcher"] = ProcessId(**kept["launcher"])
        kept["processes"] = {name: ProcessId(**entry) for name, entry in kept["processes"].items()}
        return Record(**kept)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_ports(folder: DataFolder) -> dict[str, int]:
    """The internal ports of the last start; empty when there was none."""
    try:
        return {str(name): int(port) for name, port in json.loads(folder.ports.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def keep_ports(folder: DataFolder, ports: dict[str, int]) -> None:
    """Writes only when a port has changed, so that a start works on a full disk."""
    if find_ports(folder) != ports:
        _replace(folder.ports, json.dumps(ports, indent=1))


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise

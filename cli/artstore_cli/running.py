"""Finds, shows and stops the processes that run on a data folder: `status`, `down`, and the clean-up before `up`."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from .data_folder import DataFolder, find_record
from .errors import CommandError
from .fleet import POSTGRES, Site
from .parts import Part, describe, fork_server, services, unready_checks
from .system import STOP_TIMEOUT_S, stop_processes

LAUNCHER_TIMEOUT_S = 5 * STOP_TIMEOUT_S
"""Longer than the launcher needs to stop all its waves of processes."""


@dataclass(frozen=True, slots=True)
class PartStatus:
    name: str
    state: str
    pid: int
    url: str
    port: int | None
    """The port at which this process alone is reached, for instance for its /metrics."""

    @property
    def ok(self) -> bool:
        return self.state in ("ready", "running")


def status(root: Path, folder: DataFolder) -> list[PartStatus]:
    """One entry for each process that was started; empty when nothing was."""
    record = find_record(folder)
    if record is None:
        return []
    site = Site(root, folder, record.port_base, own_ports=record.own_ports)
    known = {part.name: part for part in services(site, fork_server(site))}  # it starts nothing
    return [
        PartStatus(
            name,
            _state(identity.alive(), known.get(name), record.faults.get(name, "")),
            identity.pid,
            known[name].url if name in known else "",
            known[name].port if name in known else None,
        )
        for name, identity in record.processes.items()
    ]


def _state(alive: bool, part: Part | None, fault: str) -> str:
    if not alive:
        return f"dead: {fault}" if fault else "dead"
    if part is None or part.port is None:
        return f"starting; before: {fault}" if fault else "running"
    checks = unready_checks(part.port)
    return f"not ready: {describe(checks)}" if checks else "ready"


def down(folder: DataFolder) -> list[str]:
    """Stop the system on this folder, also after its launcher was killed. Returns the names of the stopped processes."""
    if not folder.path.is_dir():
        raise CommandError(f"the data folder {folder.path} does not exist")
    record = find_record(folder)
    stopped = [name for name, identity in record.processes.items() if identity.alive()] if record else []
    if record and folder.is_locked():
        record.launcher.send(signal.SIGTERM)
        if not record.launcher.wait_gone(LAUNCHER_TIMEOUT_S):
            raise CommandError(f"the launcher (process {record.launcher.pid}) does not end; see {folder.logs}")
    with folder.locked():
        return stopped or stop_leftovers(folder)


def stop_leftovers(folder: DataFolder) -> list[str]:
    """Stop the processes that a killed launcher has recorded and left running. Call with the folder locked.

    A process is identified by pid and start time, so no other process is stopped. Returns the names.
    """
    record = find_record(folder)
    if record is None:
        return []
    left = {name: identity for name, identity in record.processes.items() if identity.alive()}
    for name in reversed(left):
        stop_processes([(left[name], signal.SIGINT if name == POSTGRES else signal.SIGTERM)])
    folder.record.unlink(missing_ok=True)
    return list(left)

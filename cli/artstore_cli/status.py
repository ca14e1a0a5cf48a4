"""`status`: what runs on a data folder, asked from outside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .data_folder import DataFolder, find_record
from .fleet import Site
from .parts import Part, describe, services, unready_checks


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    state: str
    pid: int
    url: str

    @property
    def ok(self) -> bool:
        return self.state in ("ready", "running")


def status(root: Path, folder: DataFolder) -> list[Line]:
    """A line for each part that was started; empty when nothing was."""
    record = find_record(folder)
    if record is None:
        return []
    known = {part.name: part for part in services(Site(root, folder, record.port_base))}
    return [
        Line(
            name,
            _state(identity.alive(), known.get(name), record.faults.get(name, "")),
            identity.pid,
            known[name].url if name in known else "",
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

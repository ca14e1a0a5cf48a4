"""`down`: stops the system that runs on a data folder, also one whose launcher was killed."""

from __future__ import annotations

import signal

from . import leftovers
from .data_folder import DataFolder, find_record
from .refusal import Refused
from .system import STOP_TIMEOUT_S

LAUNCHER_TIMEOUT_S = 5 * STOP_TIMEOUT_S
"""Longer than the launcher takes for all waves of its own stop."""


def down(folder: DataFolder) -> list[str]:
    """Names of what was stopped; empty when nothing ran."""
    if not folder.path.is_dir():
        raise Refused(f"there is no data folder {folder.path}")
    record = find_record(folder)
    stopped = [name for name, identity in record.processes.items() if identity.alive()] if record else []
    if record and folder.is_locked():
        record.launcher.send(signal.SIGTERM)
        if not record.launcher.wait_gone(LAUNCHER_TIMEOUT_S):
            raise Refused(f"the launcher (process {record.launcher.pid}) does not end; see {folder.logs}")
    with folder.locked():
        return stopped or leftovers.clear(folder)

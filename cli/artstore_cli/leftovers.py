"""Ends what a launcher that was killed has left running: only processes that it recorded, told by pid and start time."""

from __future__ import annotations

import signal

from .data_folder import DataFolder, find_record
from .fleet import POSTGRES
from .system import stop_processes


def clear(folder: DataFolder) -> list[str]:
    """Names of what was still running and is stopped now. Call with the folder locked."""
    record = find_record(folder)
    if record is None:
        return []
    left = {name: identity for name, identity in record.processes.items() if identity.alive()}
    for name in reversed(left):
        stop_processes([(left[name], signal.SIGINT if name == POSTGRES else signal.SIGTERM)])
    folder.record.unlink(missing_ok=True)
    return list(left)

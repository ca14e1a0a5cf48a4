"""Process ids that are never confused with a later process."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A pid with its start time in clock ticks since boot. The pair is never reused before the next boot."""

    pid: int
    started: int

    def alive(self) -> bool:
        return find_started(self.pid) == self.started

    def send(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait_gone(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True


def find_started(pid: int) -> int | None:
    """Start time of a running process, proc_pid_stat(5) field 22; None when there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def boot_id() -> str:
    """Changes with each boot, which makes earlier process ids meaningless."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

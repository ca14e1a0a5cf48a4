"""The ring of segments: used in turn, the oldest first. Once the log runs, only its own thread uses them."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass

from ..disk_health import DISK_FULL
from .segment import SUFFIX, Segment, begin_segment, create_segment

READY_SEGMENTS = 3
"""The one in use, the next one, and one reserved for checkpoints: also on a full disk, segments can be freed."""


@dataclass(frozen=True, slots=True)
class WalLimits:
    segment_bytes: int = 32 << 20
    max_segments: int = 16


class Ring:
    """`used` ends with the segment in use; `_free` holds those that no recovery needs."""

    def __init__(self, folder: str, limits: WalLimits) -> None:
        self.used: deque[Segment] = deque()
        self._free: deque[Segment] = deque()
        self._folder = folder
        self._limits = limits
        self._sequence = 0

    def start(self, free: list[Segment], live: list[Segment], first: int, last_sequence: int) -> None:
        """`live` segments, oldest first, are kept until the next checkpoint: a crash before it reads them again."""
        self._sequence = last_sequence
        self._free.extend(free)
        self.used.extend(live)
        while len(self._free) + len(self.used) < READY_SEGMENTS or not self._free:
            self._free.append(self._create())
        self.advance(first, last_one=True)

    @property
    def current(self) -> Segment:
        return self.used[-1]

    def advance(self, first: int, *, last_one: bool) -> bool:
        """Continue in the next segment, whose numbers begin at `first`. False when only a checkpoint can free one."""
        needed = 1 if last_one else 2
        if len(self._free) < needed:
            self._make_segment()
        if len(self._free) < needed:
            return False
        segment = self._free.popleft()
        self._sequence += 1
        begin_segment(segment, self._sequence, first)
        self.used.append(segment)
        return True

    def free_below(self, redo_from: int) -> None:
        """Records below `redo_from` are durable in the files themselves."""
        while len(self.used) > 1 and self.used[1].first <= redo_from:
            self._free.append(self.used.popleft())

    def close(self) -> None:
        for segment in (*self.used, *self._free):
            os.close(segment.fd)

    def _make_segment(self) -> None:
        """Add a segment, unless the limit or a full disk prevents it."""
        if len(self.used) + len(self._free) >= self._limits.max_segments:
            return
        try:
            self._free.append(self._create())
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise

    def _create(self) -> Segment:
        names = {os.path.basename(segment.path) for segment in (*self.used, *self._free)}
        number = next(n for n in range(1, len(names) + 2) if f"{n:08d}{SUFFIX}" not in names)
        return create_segment(f"{self._folder}/{number:08d}{SUFFIX}", self._limits.segment_bytes)

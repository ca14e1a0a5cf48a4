"""Remembers which large data matched its checksum, when it was written or sent whole, so that not every download hashes it.

SHA-256 costs about as much as sending. Data that anyone has written to since has another version and is hashed again. Damage
that a disk hides within VERIFIED_FOR_S is left to the first download afterwards, and to the scrub.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable

from .backends.base import Backend

VERIFIED_FOR_S = 3600.0
REMEMBER_FROM_BYTES = 8 << 20
"""Smaller data is hashed each time: the times of a file tell two changes apart only some milliseconds after each other."""
MAX_REMEMBERED = 10_000


class Verified:
    """One per store."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[Hashable, float]] = OrderedDict()

    def has(self, file_id: str, version: Hashable | None) -> bool:
        seen, at_s = self._seen.get(file_id, (None, 0.0))
        return version is not None and seen == version and time.monotonic() - at_s < VERIFIED_FOR_S

    def add(self, file_id: str, version: Hashable | None, size_bytes: int) -> None:
        """`version` from before the data was read."""
        if size_bytes < REMEMBER_FROM_BYTES or version is None:
            return
        self._seen[file_id] = version, time.monotonic()
        self._seen.move_to_end(file_id)
        if len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)

    def add_written(self, file_id: str, files: Backend) -> None:
        """Data that was hashed while it was written, now under its name. Blocks."""
        data = files.open_data(file_id)
        if data is not None:
            self.add(file_id, data.version(), data.size_bytes)
            data.close()

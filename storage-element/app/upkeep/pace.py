"""A limit on bytes per second that forgets no debt and saves no credit: pauses are as long as the last piece was large."""

from __future__ import annotations


class Pace:
    """`bytes_per_s` 0: no limit."""

    __slots__ = ("_bytes_per_s", "_free_at_s")

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at_s = 0.0

    def pause_s(self, size_bytes: int, now_s: float) -> float:
        """How long to wait after reading `size_bytes` at `now_s` (any clock that only goes forward)."""
        if not self._bytes_per_s:
            return 0.0
        self._free_at_s = max(self._free_at_s, now_s) + size_bytes / self._bytes_per_s
        return self._free_at_s - now_s

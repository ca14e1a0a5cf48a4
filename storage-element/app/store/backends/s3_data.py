"""The bytes of one object, read in parts: each names the ETag, so nobody gets two revisions mixed."""

from __future__ import annotations

from collections.abc import Callable

WINDOW_BYTES = 4 << 20
"""Fetched at once by a reader that goes on from where it was: what one download holds in memory."""


class S3Data:
    __slots__ = ("_begins", "_etag", "_get", "_key", "_window", "size_bytes")

    def __init__(
        self, get: Callable[[str, str | None, int, int], bytes], key: str, etag: str | None, size_bytes: int
    ) -> None:
        self.size_bytes = size_bytes
        self._get, self._key, self._etag = get, key, etag
        self._window = b""
        self._begins = 0

    def read_cached(self, offset: int, size_bytes: int) -> bytes | None:
        if size_bytes == 0 or offset >= self.size_bytes:
            return b""
        start = offset - self._begins
        if start < 0 or start + size_bytes > len(self._window):
            return None
        return self._window[start : start + size_bytes]

    def read(self, offset: int, size_bytes: int) -> bytes:
        """The first read takes what was asked for; one that goes on from there a whole window."""
        goes_on = bool(self._window) and offset == self._begins + len(self._window)
        end = min(offset + (max(size_bytes, WINDOW_BYTES) if goes_on else size_bytes), self.size_bytes)
        if end <= offset:
            return b""
        self._window = self._get(self._key, self._etag, offset, end)
        self._begins = offset
        return self._window[:size_bytes]

    def drop_cache(self) -> None:
        self._window = b""

    def duplicate(self) -> S3Data:
        return S3Data(self._get, self._key, self._etag, self.size_bytes)

    def close(self) -> None:
        self._window = b""

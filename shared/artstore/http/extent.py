"""How far the message that is being parsed may reach into bytes that have arrived.

The parser reads all it is given, and cannot be stopped at the end of a request. So it is given no more than one message can
hold: stated content to its exact length, heads and chunked content up to the next empty line.
"""

from __future__ import annotations

_EMPTY_LINE = b"\r\n\r\n"
"""Ends every head, and every chunked content with its trailers."""
_SHARED = len(_EMPTY_LINE) - 1


class Extent:
    """Of one connection. `content_left` is set when a head states a length, and None everywhere else."""

    __slots__ = ("_tail", "content_left")

    def __init__(self) -> None:
        self.content_left: int | None = None
        self._tail = b""
        """The last bytes parsed: two pieces may share the empty line."""

    def end_message(self) -> None:
        self.content_left, self._tail = None, b""

    def next_slice(self, data: bytes, at: int) -> bytes:
        """From `at`, at least one byte."""
        if self.content_left is not None:
            end = min(len(data), at + self.content_left)
            self.content_left -= end - at
            self._tail = b""
            return data if end - at == len(data) else data[at:end]
        shared = (self._tail + data[at : at + _SHARED]).find(_EMPTY_LINE) if self._tail else -1
        found = shared + at - len(self._tail) if shared >= 0 else data.find(_EMPTY_LINE, at)
        if found < 0 and shared < 0:
            self._tail = (self._tail + data[max(at, len(data) - _SHARED) :])[-_SHARED:]
            return data if at == 0 else data[at:]
        self._tail = b""
        end = found + len(_EMPTY_LINE)
        return data if end - at == len(data) else data[at:end]

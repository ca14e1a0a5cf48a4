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
        end = self._end_of_line(data, at)
        piece = data if end - at == len(data) else data[at:end]
        self._tail = (self._tail + piece[-_SHARED:])[-_SHARED:]
        return piece

    def _end_of_line(self, data: bytes, at: int) -> int:
        if self._tail:
            shared = (self._tail + data[at : at + _SHARED]).find(_EMPTY_LINE)
            if shared >= 0:
                return at + shared + len(_EMPTY_LINE) - len(self._tail)
        end = data.find(_EMPTY_LINE, at)
        return len(data) if end < 0 else end + len(_EMPTY_LINE)

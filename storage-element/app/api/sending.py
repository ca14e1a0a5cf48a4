"""A file's bytes as an answer: 1 MiB at a time, from an open descriptor, with one range."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from artstore.errors import RangeNotSatisfiable, TooSlow

from ..store.get import Opened

PIECE_BYTES = 1 << 20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def chosen_part(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """First and last byte (RFC 9110 §14.2). None for the whole: no range, several, or one that cannot be read.

    Raises RangeNotSatisfiable.
    """
    found = _RANGE.fullmatch(header.strip()) if header is not None else None
    if found is None or found.groups() == ("", ""):
        return None
    first_text, last_text = found.groups()
    if not first_text:
        first, last = max(0, size_bytes - int(last_text)), size_bytes - 1
    else:
        first, last = int(first_text), min(int(last_text), size_bytes - 1) if last_text else size_bytes - 1
        if last_text and int(last_text) < first:
            return None
    if first > last or first >= size_bytes:
        raise RangeNotSatisfiable("the range begins after the last byte", size_bytes=size_bytes)
    return first, last


class FileResponse(Response):
    """Closes `opened` in any case. A client that takes nothing for `idle_timeout_s` is cut off."""

    def __init__(
        self, opened: Opened, status: int, headers: Mapping[str, str], first: int, end: int, idle_timeout_s: float
    ) -> None:
        super().__init__(status_code=status, headers=headers)
        del self.headers["content-length"]
        self.headers["content-length"] = str(end - first)
        self._opened, self._first, self._end, self._idle_timeout_s = opened, first, end, idle_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send_body(send)
        finally:
            self._opened.close()

    async def _send_body(self, send: Send) -> None:
        position = self._first
        while True:
            piece = await self._opened.read(position, min(PIECE_BYTES, self._end - position))
            position += len(piece)
            if not piece and position < self._end:
                raise OSError("the file is shorter than it was when it was opened")
            try:
                async with asyncio.timeout(self._idle_timeout_s):
                    await send({"type": "http.response.body", "body": piece, "more_body": position < self._end})
            except TimeoutError as error:
                raise TooSlow("the answer is not taken") from error
            if position >= self._end:
                return

"""A file's bytes as an answer: 1 MiB at a time, from an open descriptor, with one range."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from artstore.errors import TooSlow

from ..store.get import Opened

PIECE_BYTES = 1 << 20


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
            # Read before the head is sent: a file that the disk cannot read is answered with an error, not cut off.
            piece = await self._opened.read(self._first, min(PIECE_BYTES, self._end - self._first))
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send_body(send, piece)
        finally:
            self._opened.close()

    async def _send_body(self, send: Send, piece: bytes) -> None:
        position = self._first
        while True:
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
            piece = await self._opened.read(position, min(PIECE_BYTES, self._end - position))

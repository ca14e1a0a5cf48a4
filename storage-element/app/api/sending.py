"""A file's bytes, or one range of them, as an answer: 1 MiB at a time, from an open file."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from artstore.auth.access import principal_of
from artstore.contracts.tokens import Role
from artstore.errors import TooSlow
from artstore.http.body import BodyRateLimits
from artstore.http.sending import BodySender
from artstore.logs import get_logger

from ..store.get import OpenedFile

log = get_logger("element.sending")

PIECE_BYTES = 1 << 20
SLOW_PIECE_BYTES = 64 << 10
"""For a slow client: a piece stays in memory until it is sent."""
RELAY_STALL_S = 3600.0
"""A module that relays bytes enforces the minimum rate for its own client. Its buffers may hold minutes of a slow download; a
module that reads nothing for this long has lost its client or hangs."""


def send_limits(request: Request, limits: BodyRateLimits) -> BodyRateLimits:
    """The minimum rate for this caller."""
    return BodyRateLimits(RELAY_STALL_S, 0) if principal_of(request).role is Role.SERVICE else limits


class FileResponse(Response):
    """Closes `opened` in any case. A client that reads more slowly than `limits` allow is disconnected."""

    def __init__(
        self, opened: OpenedFile, status: int, headers: Mapping[str, str], first: int, end: int, limits: BodyRateLimits
    ) -> None:
        super().__init__(status_code=status, headers=headers)
        del self.headers["content-length"]
        self.headers["content-length"] = str(end - first)
        self._opened, self._first, self._end, self._limits = opened, first, end, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # Read before the head is sent, so that an unreadable file is answered with an error instead of a truncated body.
            piece = await self._opened.read(self._first, min(PIECE_BYTES, self._end - self._first))
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            with BodySender(scope, send, self._limits) as sender:
                await self._send_body(sender, piece)
        except TooSlow as error:
            log.info("slow download ended", reason=error.detail)
        finally:
            self._opened.close()

    async def _send_body(self, sender: BodySender, piece: bytes) -> None:
        position = self._first
        while True:
            position += len(piece)
            if not piece and position < self._end:
                raise OSError("the file became shorter while it was read")
            await sender.send(piece, more=position < self._end)
            if position >= self._end:
                return
            most = SLOW_PIECE_BYTES if sender.waits else PIECE_BYTES
            piece = await self._opened.read(position, min(most, self._end - position))

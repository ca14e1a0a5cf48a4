"""One request and its response, as the ASGI application sees them.

uvicorn's class with four additions: 100 Continue is sent only if content is still to come, a response that
leaves much content unread ends the connection, pipelined requests stay unread until their turn, and the
connection decides how it closes.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

DRAINED_BYTES = 256 << 10
"""Unread content up to this length is read and discarded after an early response; more ends the connection.
"""


class RequestCycle(RequestResponseCycle):
    """`stated_bytes` is Content-Length, or None."""

    stated_bytes: int | None = None
    received_bytes = 0

    async def receive(self) -> Any:
        if not self.more_body:
            self.waiting_for_100_continue = False
        elif self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            if self.more_body:
                self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        message = {"type": "http.request", "body": bytes(self.body), "more_body": self.more_body}
        self.body = bytearray()
        return message

    def send(self, message: Message) -> Coroutine[Any, Any, None]:  # type: ignore[override]
        if self.more_body and message["type"] == "http.response.start" and not self._drains():
            self.keep_alive = False
        return super().send(message)  # type: ignore[arg-type]

    def _drains(self) -> bool:
        """True if the content still to come is short and will certainly be sent. A client that waits for 100
        Continue may never send it (RFC 9110 §10.1.1), and its next request would be taken for content."""
        if self.waiting_for_100_continue or self.stated_bytes is None:
            return False
        return self.stated_bytes - self.received_bytes <= DRAINED_BYTES

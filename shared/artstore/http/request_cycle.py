"""One request and its response, as the ASGI application sees them.

uvicorn's class with seven additions: content that arrived before the client disconnected is given first, a complete
response is written at once, 100 Continue is sent only if content is still to come, a response that leaves much content
unread ends the connection, pipelined requests stay unread until their turn, the connection decides how it closes, and
a request that a stop has cut off is not logged as a failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HEADER_VALUE_RE, STATUS_LINE, RequestResponseCycle

DRAINED_BYTES = 256 << 10
"""Unread content up to this length is read and discarded after an early response; more ends the connection.
"""
_FRAMING = frozenset({b"connection", b"transfer-encoding"})
_WITHOUT_CONTENT = frozenset({204, 304})


class RequestCycle(RequestResponseCycle):
    """`stated_bytes` is Content-Length, or None."""

    stated_bytes: int | None = None
    received_bytes = 0

    async def run_asgi(self, app: ASGIApp) -> None:  # type: ignore[override]
        """uvicorn would log a request that a stop has cut off with a traceback."""

        async def until_cut_off(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                if not self.response_complete:
                    self.disconnected = True
                    self.transport.close()

        await super().run_asgi(until_cut_off)  # type: ignore[arg-type]

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
        if self.response_complete or (self.disconnected and not self.body):
            return {"type": "http.disconnect"}
        message = {"type": "http.request", "body": bytes(self.body), "more_body": self.more_body}
        self.body = bytearray()
        return message

    def send(self, message: Message) -> Coroutine[Any, Any, None]:  # type: ignore[override]
        if self.more_body and message["type"] == "http.response.start" and not self._drains():
            self.keep_alive = False
        return super().send(message)  # type: ignore[arg-type]

    def respond(self, status: int, fields: list[tuple[bytes, bytes]], body: bytes | memoryview) -> bool:
        """Writes a complete response with one call. Returns False, and writes nothing, in the cases that `send` must
        handle: the client does not read, the response has begun, its framing or a value is not the usual one. Field
        names are in lower case."""
        if self.response_started or self.disconnected or self.flow.write_paused:
            return False
        content: list[bytes | memoryview] = [STATUS_LINE[status]]
        length = None
        for name, value in self.default_headers + fields:
            if name == b"content-length":
                length = int(value)
            elif name in _FRAMING:
                return False
            content += (name, b": ", value, b"\r\n")
        if HEADER_VALUE_RE.search(b" ".join([value for _, value in fields])):
            return False
        if self.scope["method"] == "HEAD":
            body = b""
        elif len(body) != (length or 0) or (length is None and status not in _WITHOUT_CONTENT):
            return False
        if self.more_body and not self._drains():
            self.keep_alive = False
        content += (b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n", body)
        self.response_started, self.waiting_for_100_continue = True, False
        self.transport.write(b"".join(content))
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        return True

    def _drains(self) -> bool:
        """True if the content still to come is short and will certainly be sent. A client that waits for 100
        Continue may never send it (RFC 9110 §10.1.1), and its next request would be taken for content."""
        if self.waiting_for_100_continue or self.stated_bytes is None:
            return False
        return self.stated_bytes - self.received_bytes <= DRAINED_BYTES

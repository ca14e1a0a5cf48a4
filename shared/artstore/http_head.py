"""Bounds on a connection before there is a request and around one: the parser itself has none.

uvicorn collects header fields and trailers without end, and waits without end for the rest of a head or of a body nobody
reads. Here a head has HEAD_TIMEOUT_S to come, what is neither head nor body MAX_PENDING_BYTES, a body LINGER_S after its
answer; the exact bounds of a head are then the edge's, which answers as one should.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from artstore.clock import uuid7
from artstore.errors import PROBLEM_JSON, ArtStoreError, Malformed, TooManyHeaders, Unavailable, UriTooLong
from artstore.logs import get_logger

log = get_logger("artstore.http_head")

MAX_URL_BYTES = 8192
MAX_FIELDS = 64
MAX_HEAD_BYTES = 32 << 10
"""Names and values together; a token has up to 8 KiB."""
MAX_PENDING_BYTES = 64 << 10
"""Of a head that is not complete yet, before whatever else came with its last piece; of trailers and chunk extensions."""
HEAD_TIMEOUT_S = 15.0
LINGER_S = 30.0
"""Who is answered before its body was read may send on for so long: a connection closed at once loses the answer."""
SURPLUS_S = 1.0
"""A connection beyond the limit is told so at its first byte, and closed after this long without one."""
MAX_CONNECTIONS = 4000


def fault_of_head(scope: Scope) -> ArtStoreError | None:
    """What the edge answers; None for a head within the bounds."""
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_URL_BYTES:
        return UriTooLong(f"the path and the query may have {MAX_URL_BYTES} bytes")
    fields = scope["headers"]
    if len(fields) > MAX_FIELDS:
        return TooManyHeaders(f"there may be {MAX_FIELDS} header fields")
    if sum([len(name) + len(value) for name, value in fields]) > MAX_HEAD_BYTES:
        return TooManyHeaders(f"the header fields may have {MAX_HEAD_BYTES} bytes")
    return None


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    _pending_bytes = 0
    _in_head = True
    _whole = True
    """The request that came last has come to its end."""
    _progress = 0
    """Grows with each head and each piece of a body."""
    _surplus = False
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *given: Any, max_connections: int = MAX_CONNECTIONS, **named: Any) -> None:
        super().__init__(*given, **named)
        self._max_connections = max_connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._surplus = len(self.connections) > self._max_connections
        self._close_after(SURPLUS_S if self._surplus else HEAD_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._surplus:
            self._refuse(Unavailable("too many connections are open", retry_after_s=1))
            return
        before = self._progress
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and self._timer is None:
            self._close_after(HEAD_TIMEOUT_S)
        # A piece in which something else ended is not counted: how much of it belongs to what is pending is not known.
        if before == self._progress:
            self._pending_bytes += len(data)
        if self._pending_bytes > MAX_PENDING_BYTES:
            self._refuse(TooManyHeaders(f"the header fields may have {MAX_HEAD_BYTES} bytes"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._whole = True, False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer says nothing here, and is not kept
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._came_on()
        self._in_time()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._came_on()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._whole = True
        self._came_on()
        self._in_time()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        unread = self.cycle.response_complete and not self._whole
        if unread and self._timer is None and not self.transport.is_closing():
            self._close_after(LINGER_S)

    def eof_received(self) -> None:
        """The other side sends no more. In the middle of a body it may still listen (RFC 9112 §8): it is told.

        What handles the request sees a disconnect, as of a connection that is lost, and its own answer goes nowhere.
        """
        cycle = self.cycle
        cut = cycle is not None and cycle.more_body and not cycle.response_started and not self.pipeline
        if cut and not self.transport.is_closing():
            self._refuse(Malformed("the body was cut off"))

    def send_400_response(self, msg: str) -> None:
        """uvicorn's own answer to what is no HTTP, in our shape."""
        self._refuse(Malformed(msg.rstrip(".")))

    def _came_on(self) -> None:
        self._progress += 1
        self._pending_bytes = 0

    def _close_after(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._close)

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _in_time(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: ArtStoreError) -> None:
        """Closes the connection; with an answer, unless another one is on its way."""
        under_way = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if under_way or self.pipeline:
            self.transport.close()
            return
        current = str(uuid7())
        log.warning("refused before the edge", request_id=current, code=error.code, detail=error.detail)
        body = error.to_wire(current)
        head: dict[str, Any] = {
            "content-type": PROBLEM_JSON,
            "content-length": len(body),
            "x-request-id": current,
            "connection": "close",
            **error.headers(),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        self.transport.write(f"HTTP/1.1 {error.status} {error.title}\r\n{lines}\r\n".encode() + body)
        self.transport.close()

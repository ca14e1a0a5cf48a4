"""Bounds on the head of a request, before there is a request: the parser itself has none.

uvicorn collects header fields without end, and waits without end for the rest of a head. Here a head has HEAD_TIMEOUT_S to
come and MAX_PENDING_BYTES to be kept; the exact bounds are then the edge's, which answers as one should.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from artstore.clock import uuid7
from artstore.errors import PROBLEM_JSON, ArtStoreError, Malformed, TooManyHeaders, UriTooLong
from artstore.logs import get_logger

log = get_logger("artstore.http_head")

MAX_URL_BYTES = 8192
MAX_FIELDS = 64
MAX_HEAD_BYTES = 32 << 10
"""Names and values together; a token has up to 8 KiB."""
MAX_PENDING_BYTES = 64 << 10
"""Of a head that is not complete yet, before whatever else came with its last piece."""
HEAD_TIMEOUT_S = 15.0


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
    _heads = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        began, heads = self._in_head, self._heads
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        # A piece in which another request ended is not counted: how much of it belongs to the head is not known.
        self._pending_bytes += len(data) if began and heads == self._heads else 0
        if self._head_timer is None:
            self._await_head()
        if self._pending_bytes > MAX_PENDING_BYTES:
            self._refuse(TooManyHeaders(f"the header fields may have {MAX_HEAD_BYTES} bytes"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head, self._pending_bytes = False, 0
        self._heads += 1
        self._head_came()
        super().on_headers_complete()

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

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.timeout_keep_alive_handler)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, error: ArtStoreError) -> None:
        current = str(uuid7())
        log.warning("refused before the edge", request_id=current, code=error.code, detail=error.detail)
        body = error.to_wire(current)
        head: dict[str, Any] = {
            "content-type": PROBLEM_JSON,
            "content-length": len(body),
            "x-request-id": current,
            "connection": "close",
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        self.transport.write(f"HTTP/1.1 {error.status} {error.title}\r\n{lines}\r\n".encode() + body)
        self.transport.close()

"""The server side of an HTTP/1.1 connection, with a bound on everything that a client can make the server
buffer or wait for.

uvicorn's own class queues all pipelined requests, ends a connection whose client has shut down its sending
side, and waits without limit for heads, for unread content and for responses that are not read. This class
replaces those parts.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from artstore.clock import uuid7
from artstore.errors import ArtStoreError, Malformed, Unavailable
from artstore.http.connections import Connections
from artstore.http.output import EXTENSION, Output
from artstore.http.parser import RequestHead, RequestParser
from artstore.http.request_cycle import RequestCycle
from artstore.limits.addresses import as_caller, find_client
from artstore.limits.gate import PRINCIPAL

HEAD_TIMEOUT_S = 15.0
LINGER_S = 30.0
"""How long we keep reading after an early response. Closing at once would reset the connection, and the
client would lose the response (RFC 9112 §9.6)."""
FIRST_REQUEST_S = 2.0
"""How long a stop waits for the request of a connection that has not sent one yet."""
SURPLUS_S = 1.0
"""A connection beyond the limit is refused at its first byte, and closed if none arrives in this time."""


class Connection(HttpToolsProtocol):
    """One connection. A pipelined request is parsed only after the response to the request before it has
    ended."""

    _unparsed = b""
    """Bytes of pipelined requests. Reading is paused while there are any."""
    _half_closed = False
    """The client has shut down its sending side."""
    _draining = False
    """The last response was sent; input is discarded until the client closes."""
    _surplus = False
    _timer: asyncio.TimerHandle | None = None

    cycle: RequestCycle
    _output: Output

    def __init__(self, *given: Any, open_connections: Connections, **named: Any) -> None:
        super().__init__(*given, **named)
        self._open = open_connections
        self._parser = RequestParser(self)
        self.address = ""

    # --- lifetime of the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        host = self.client[0] if self.client else None
        self.address = host if host and ":" not in host else as_caller(find_client(host, (), ()))
        self._output = Output(transport, self.loop, self._finish)
        self._surplus = not self._open.add(self)
        self._close_after(SURPLUS_S if self._surplus else HEAD_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._unset_keepalive_if_required()
        self._output.stop_watching()
        self._keep_unparsed(b"")
        self._open.remove(self)
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client will send no more, but may still read (RFC 9112 §9.6): complete requests are processed
        and answered. Returns True to keep the connection open."""
        self._half_closed = True
        under_way = self._is_busy or self._parser.in_partial_head or self._unparsed
        if self.transport.is_closing() or self._draining or not under_way:
            return False
        if not self._parser.complete:
            self._refuse_cut_off()
            return False
        if not self._unparsed:
            self.cycle.keep_alive = False
        return True

    def end_after_response(self) -> None:
        """The server stops: the request in progress is the last one. An idle connection may bring one more."""
        self._keep_unparsed(b"")
        if self._is_busy:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """The server accepts nothing more. A connection that was accepted just before gets its first request answered."""
        self.end_after_response()
        if self.cycle is None and not self.transport.is_closing():
            self._close_after(FIRST_REQUEST_S)
        else:
            super().shutdown()

    def evict(self) -> None:
        """Aborts this connection in favour of a new one, without waiting for unsent data."""
        self.transport.abort()

    @property
    def authorised(self) -> bool:
        return self.cycle is not None and PRINCIPAL in self.cycle.scope["state"]

    @property
    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # --- input

    def data_received(self, data: bytes) -> None:
        if self._draining:
            return
        if self._surplus:
            self._refuse(Unavailable("this service has too many open connections", retry_after_s=1))
            return
        self._unset_keepalive_if_required()
        if self._unparsed:
            self._keep_unparsed(self._unparsed + data)
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Parses up to the end of the current request; the bytes behind it wait for its response."""
        at, parser = 0, self._parser
        while at < len(data):
            if self.transport.is_closing() or self._draining:
                return
            if parser.complete and self._is_busy:
                self._wait_with(data[at:])
                return
            try:
                at, ready = parser.feed(data, at)
            except ArtStoreError as error:
                self._refuse(error)
                return
            if ready:
                self._open.begin(self)
                self._start_asgi_task(self.cycle, self.app)
        if self._timer is None and parser.in_head and not self._is_busy:
            self._close_after(HEAD_TIMEOUT_S)

    def _wait_with(self, rest: bytes) -> None:
        self._keep_unparsed(rest)
        self.flow.pause_reading()
        if self._open.waiting_bytes > self._open.max_waiting_bytes:
            self._keep_unparsed(b"")
            self._half_closed, self.cycle.keep_alive = True, False

    def _keep_unparsed(self, rest: bytes) -> None:
        self._open.waiting_bytes += len(rest) - len(self._unparsed)
        self._unparsed = rest

    # --- callbacks of the parser

    def on_head(self, head: RequestHead) -> None:
        self._stop_timer()
        path = head.path.decode("ascii")
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": head.version,
            "method": head.method,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,  # type: ignore[typeddict-item]
            "root_path": self.root_path,
            "path": self.root_path + (unquote(path) if "%" in path else path),
            "raw_path": self.root_path.encode("ascii") + head.path,
            "query_string": head.query,
            "headers": head.fields,
            "state": self.app_state.copy(),
            "extensions": {EXTENSION: self._output},  # type: ignore[dict-item]
        }
        self.cycle = RequestCycle(
            scope=self.scope,
            transport=self._output,  # type: ignore[arg-type]
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=head.expects_100,
            keep_alive=head.keep_alive and not self._open.stopping,
            on_response=self.on_response_complete,
        )
        self.cycle.stated_bytes = head.stated_bytes

    def on_content(self, content: bytes) -> None:
        self.cycle.received_bytes += len(content)
        self.on_body(content)

    def on_request_end(self) -> None:
        self._stop_timer()
        self.cycle.more_body = False
        if self.cycle.response_complete:
            self._keep_alive()
        else:
            self.cycle.message_event.set()

    # --- output

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self._open.end(self)
        self._output.watch()
        if self.transport.is_closing() or self._draining:
            return
        if self._unparsed and self._parser.complete:
            self.loop.call_soon(self._resume)  # nothing more is read before these are parsed
            return
        self.flow.resume_reading()
        if not self._parser.complete:
            if self._timer is None:
                self._close_after(LINGER_S)
        elif self._half_closed:
            self._close()
        else:
            self._keep_alive()

    def _keep_alive(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self._close)

    def _resume(self) -> None:
        """Parses the bytes that waited for the response."""
        if self.transport.is_closing() or self._is_busy:
            return
        rest = self._unparsed
        self._keep_unparsed(b"")
        self.flow.resume_reading()
        self._parse(rest)
        if not self._half_closed or self.transport.is_closing() or self._draining:
            return
        if not self._parser.complete:
            self._refuse_cut_off()
        elif not self._is_busy:
            self._close()
        elif not self._unparsed:
            self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        super().pause_writing()
        self._output.watch()

    # --- closing

    def _close_after(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
            self._output.watch()

    def _finish(self) -> None:
        """Closes after the last response. If the client may still be sending, only our sending side is closed
        first."""
        if self.transport.is_closing() or self._draining:
            return
        if self._half_closed or (self._parser.complete and not self._unparsed):
            self._close()
            return
        self._draining = True
        self._keep_unparsed(b"")
        self._unset_keepalive_if_required()
        self.transport.write_eof()
        self.flow.resume_reading()
        self._close_after(LINGER_S)
        self._output.watch()

    def _refuse(self, error: ArtStoreError) -> None:
        """Ends the connection, with a problem response unless a response has already begun. The application
        sees a disconnect."""
        cycle, answering = self.cycle, self._is_busy and self.cycle.response_started
        if not answering and not self.transport.is_closing():
            self._output.write_problem(error, str(uuid7()))
        if self._is_busy:
            cycle.disconnected = True
            cycle.message_event.set()
        if answering or self._surplus:
            self._close()
        else:
            self._finish()

    def _refuse_cut_off(self) -> None:
        self._refuse(Malformed(f"the {'head' if self._parser.in_head else 'body'} was cut off"))

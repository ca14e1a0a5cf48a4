"""A connection: everything that its client can make the server hold, or wait for, is bounded.

uvicorn queues all requests that have arrived, ends a connection whose client has shut down its sending side, and waits without
limit for heads, for content that is not read and for answers that are not taken. This class replaces those parts.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from artstore.clock import uuid7
from artstore.errors import ArtStoreError, Malformed, Unavailable
from artstore.http.connections import Connections
from artstore.http.exchange import Exchange
from artstore.http.output import EXTENSION, Output
from artstore.http.reader import Head, RequestReader
from artstore.limits.addresses import as_caller, find_client
from artstore.limits.gate import PRINCIPAL

HEAD_TIMEOUT_S = 15.0
LINGER_S = 30.0
"""A client that is answered before its content was read may go on sending for so long: a connection that is closed at once
is reset, and the client loses the answer (RFC 9112 §9.6)."""
SURPLUS_S = 1.0
"""A connection beyond the limit is refused at its first byte, and closed after this long without one."""


class Connection(HttpToolsProtocol):
    """One connection. A request is parsed when the answer to the one before it has ended."""

    _unparsed = b""
    """Bytes of later requests. While there are any, reading is paused."""
    _half_closed = False
    """The client has shut down its sending side."""
    _draining = False
    """The last answer is out; input is dropped until the client closes."""
    _surplus = False
    _timer: asyncio.TimerHandle | None = None

    cycle: Exchange
    _output: Output

    def __init__(self, *given: Any, open_connections: Connections, **named: Any) -> None:
        super().__init__(*given, **named)
        self._open = open_connections
        self._reader = RequestReader(self)
        self.address = ""

    # --- the connection's life

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
        self._output.forget()
        self._keep_unparsed(b"")
        self._open.remove(self)
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more, but may still read (RFC 9112 §9.6): what it asked for whole is carried out and answered.
        Returns whether the connection stays open."""
        self._half_closed = True
        under_way = self._is_busy or self._reader.in_partial_head or self._unparsed
        if self.transport.is_closing() or self._draining or not under_way:
            return False
        if not self._reader.whole:
            self._refuse_cut_off()
            return False
        if not self._unparsed:
            self.cycle.keep_alive = False
        return True

    def shutdown(self) -> None:
        self._keep_unparsed(b"")
        super().shutdown()

    def evict(self) -> None:
        """Closes this connection in favour of a new one; an answer that is not taken must not delay that."""
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
            self._refuse(Unavailable("too many connections are open", retry_after_s=1))
            return
        self._unset_keepalive_if_required()
        if self._unparsed:
            self._keep_unparsed(self._unparsed + data)
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Up to the end of the request under way; what is behind it waits for the answer."""
        at, reader = 0, self._reader
        while at < len(data):
            if self.transport.is_closing() or self._draining:
                return
            if reader.whole and self._is_busy:
                self._wait_with(data[at:])
                return
            try:
                at, begun = reader.feed(data, at)
            except ArtStoreError as error:
                self._refuse(error)
                return
            if begun:
                self._open.begin(self)
                self._start_asgi_task(self.cycle, self.app)
        if self._timer is None and reader.in_head and not self._is_busy:
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

    # --- what the reader finds

    def head_came(self, head: Head) -> None:
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
        self.cycle = Exchange(
            scope=self.scope,
            transport=self._output,  # type: ignore[arg-type]
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=head.expects_100,
            keep_alive=head.keep_alive,
            on_response=self.on_response_complete,
        )
        self.cycle.stated_bytes = head.stated_bytes

    def content_came(self, content: bytes) -> None:
        self.cycle.received_bytes += len(content)
        self.on_body(content)

    def request_ended(self) -> None:
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
        if self._unparsed and self._reader.whole:
            self.loop.call_soon(self._go_on)  # no more is read until these are begun
            return
        self.flow.resume_reading()
        if not self._reader.whole:
            if self._timer is None:
                self._close_after(LINGER_S)
        elif self._half_closed:
            self._close()
        else:
            self._keep_alive()

    def _keep_alive(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self._close)

    def _go_on(self) -> None:
        """With what came behind the request that is answered now."""
        if self.transport.is_closing() or self._is_busy:
            return
        rest = self._unparsed
        self._keep_unparsed(b"")
        self.flow.resume_reading()
        self._parse(rest)
        if not self._half_closed or self.transport.is_closing() or self._draining:
            return
        if not self._reader.whole:
            self._refuse_cut_off()
        elif not self._is_busy:
            self._close()
        elif not self._unparsed:
            self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        super().pause_writing()
        self._output.watch()

    # --- ends

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
        """Closes after the last answer. While the client may still be sending it first gets the end of our side."""
        if self.transport.is_closing() or self._draining:
            return
        if self._half_closed or (self._reader.whole and not self._unparsed):
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
        """Ends the connection; with an answer, unless another one is on its way. The application sees a disconnect."""
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
        self._refuse(Malformed(f"the {'head' if self._reader.in_head else 'body'} was cut off"))

"""Requests whose body and response are in memory, over kept HTTP/1.1 connections to one origin.

An upload makes two of them, and aiohttp's client took a fifth of the ingester's CPU for them. Contents that are streamed
go through aiohttp (client.py).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

import aiohappyeyeballs
import httptools
from aiohttp.abc import AbstractResolver

from artstore.peers.faults import MAX_ANSWER_BYTES
from artstore.peers.liveness import PendingRequests

KEEP_CONNECTION_S = 30
"""Servers of ours keep an idle connection longer, so none is closed while a request is being sent."""
NEXT_ADDRESS_AFTER_S = 0.25
"""How long the connection to one address of a name may take before the next one is tried beside it (RFC 8305)."""
READING = frozenset({"GET", "HEAD"})
"""Methods that may be repeated when a kept connection turns out to be closed."""


@dataclass(slots=True)
class PeerAnswer:
    """A complete response. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ConnectionLostError(ConnectionError):
    """The connection ended before the response did, or what came is not a response."""


class PeerConnections:
    """The connections to one origin. The caller limits how many requests are open."""

    def __init__(self, url: str, resolver: AbstractResolver, connect_timeout_s: float) -> None:
        parts = urlsplit(url)
        self._authority, self._host = parts.netloc, parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = _tls() if parts.scheme == "https" else None
        self._resolver, self._connect_timeout_s = resolver, connect_timeout_s
        self._idle: list[_Connection] = []
        """The one used last is at the end."""

    async def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        timeout_s: float,
        pending: PendingRequests,
    ) -> PeerAnswer:
        """Sends a request, not HEAD, and reads the whole response. `pending` can give it up. Raises OSError, TimeoutError."""
        until_s = asyncio.get_running_loop().time() + timeout_s
        request = self._encode(method, target, headers, body)
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_reusable:
                continue
            try:
                return await self._ask_on(connection, request, until_s, pending)
            except ConnectionLostError:
                # The peer may have closed it before the request came, or after it has made a change.
                if method not in READING or connection.received_bytes:
                    raise
        async with asyncio.timeout_at(until_s):
            connection = await self._open()
        return await self._ask_on(connection, request, until_s, pending)

    def close_idle(self, for_s: float = 0) -> None:
        """Closes the connections that have been idle for that long."""
        before_s = asyncio.get_running_loop().time() - for_s
        while self._idle and self._idle[0].used_s <= before_s:
            self._idle.pop(0).close()

    async def _ask_on(
        self, connection: _Connection, request: bytes, until_s: float, pending: PendingRequests
    ) -> PeerAnswer:
        pending.add(connection)
        try:
            answer = await connection.ask(request, until_s)
        finally:
            pending.discard(connection)
        if connection.is_reusable:
            self._idle.append(connection)
        return answer

    def _encode(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        lines = [f"{method} {target} HTTP/1.1", f"host: {self._authority}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None or method not in READING:
            lines.append(f"content-length: {len(body or b'')}")
        head = "\r\n".join(lines)
        if head.count("\r") != len(lines) - 1 or head.count("\n") != len(lines) - 1 or "\0" in head:
            raise ValueError("a header has a line break")  # it would begin a header or a request of its own
        return b"".join((head.encode(), b"\r\n\r\n", body or b""))

    async def _open(self) -> _Connection:
        loop, addresses = asyncio.get_running_loop(), await self._addresses()
        async with asyncio.timeout(self._connect_timeout_s):
            connected = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_AFTER_S)
            try:
                _, connection = await loop.create_connection(
                    lambda: _Connection(self._lost),
                    sock=connected,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
            except BaseException:
                connected.close()
                raise
        return connection

    async def _addresses(self) -> list[aiohappyeyeballs.AddrInfoType]:
        """Names are resolved for each connection. Addresses in URLs have been checked (addresses.py)."""
        try:
            address = ipaddress.ip_address(self._host)
        except ValueError:
            found = await self._resolver.resolve(self._host, self._port, socket.AF_UNSPEC)
            hosts = [(socket.AddressFamily(one["family"]), one["host"]) for one in found]
        else:
            hosts = [(socket.AF_INET6 if address.version == 6 else socket.AF_INET, self._host)]
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, self._port)) for family, host in hosts]

    def _lost(self, connection: _Connection) -> None:
        with suppress(ValueError):
            self._idle.remove(connection)


class _Connection(asyncio.Protocol):
    """One connection, which carries one request at a time. For PendingRequests it is that request."""

    def __init__(self, lost: Callable[[_Connection], None]) -> None:
        self.used_s = 0.0
        """When the last response was complete."""
        self.received_bytes = 0
        """Read from the last response."""
        self.waiting_since_s: float | None = None
        self._loop, self._lost = asyncio.get_running_loop(), lost
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[PeerAnswer] | None = None
        self._fields: dict[str, str] = {}
        self._body: list[bytes] = []

    async def ask(self, request: bytes, until_s: float) -> PeerAnswer:
        """Raises ConnectionLostError, TimeoutError, and then the connection is closed."""
        if self._transport.is_closing():  # a new one that was closed at once: nothing would end the wait
            raise ConnectionLostError("the connection was closed")
        waiter: asyncio.Future[PeerAnswer] = self._loop.create_future()
        self._waiter = waiter
        self.received_bytes, self.waiting_since_s = 0, self._loop.time()
        timer = self._loop.call_at(until_s, self.give_up)
        self._transport.write(request)
        try:
            return await waiter
        except BaseException:
            self._transport.abort()
            raise
        finally:
            timer.cancel()
            self._waiter = None

    @property
    def is_reusable(self) -> bool:
        return not self._transport.is_closing()

    def give_up(self) -> None:
        """Ends the request as if its timeout had expired."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError("no response in time"))

    def close(self) -> None:
        self._transport.close()

    # --- called by the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        if self._waiter is None:
            self._fail("the peer sent more than its response")
        elif self.received_bytes > MAX_ANSWER_BYTES:
            self._fail(f"the response is longer than {MAX_ANSWER_BYTES} bytes")
        else:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError as error:
                self._fail(f"the response is not HTTP: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(str(error or "the connection was closed"))
        self._lost(self)

    def _fail(self, reason: str) -> None:
        self._transport.abort()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionLostError(reason))

    # --- called by the parser

    def on_message_begin(self) -> None:
        self._fields, self._body = {}, []
        if self._waiter is None or self._waiter.done():
            self._fail("the peer sent more than its response")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.waiting_since_s = None

    def on_body(self, content: bytes) -> None:
        self._body.append(content)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._waiter is None or self._waiter.done():
            return
        if not self._parser.should_keep_alive():
            self._transport.close()
        self.used_s = self._loop.time()
        self._waiter.set_result(PeerAnswer(status, self._fields, b"".join(self._body)))


@cache
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context

"""The output of a connection: counted, and aborted when the client stops reading."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable
from typing import Any

from artstore.errors import PROBLEM_JSON, ArtStoreError
from artstore.logs import get_logger

log = get_logger("artstore.http")

EXTENSION = "artstore.output"
"""Key in the scope's extensions."""
STALL_S = 30.0
MIN_READ_BYTES = 16 << 10
"""A client must read at least this much of a response, or the rest of it, in every STALL_S."""


UNSENT_BYTES = 256 << 10
"""Limit of unsent data in the kernel. Without it the kernel buffers up to 4 MiB for each client that reads
slowly; a fast client does not need that."""
_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", None)  # Linux and macOS


class Output:
    """The transport that a request cycle writes to. `close` lets the connection decide how it closes."""

    __slots__ = ("_loop", "_timer", "_transport", "_written_bytes", "close", "is_closing", "paced")

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, close: Callable[[], None]
    ) -> None:
        self._transport, self._loop, self.close = transport, loop, close
        self.is_closing = transport.is_closing
        self._written_bytes = 0
        self.paced = False
        """The sender of the current body measures the client itself (`artstore.http.sending`), more precisely
        than `watch`."""
        self._timer: asyncio.TimerHandle | None = None
        if _TCP_NOTSENT_LOWAT is not None:
            with contextlib.suppress(OSError):  # not a TCP socket, or already closed
                transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_BYTES)

    def write(self, data: bytes) -> None:
        self._written_bytes += len(data)
        self._transport.write(data)

    def write_problem(self, error: ArtStoreError, request_id: str) -> None:
        """Writes a complete response for a request that does not reach the application."""
        log.warning("request refused by the parser", request_id=request_id, code=error.code, detail=error.detail)
        body = error.to_wire(request_id)
        head: dict[str, Any] = {
            "content-type": PROBLEM_JSON,
            "content-length": len(body),
            "x-request-id": request_id,
            **error.headers(),
            "connection": "close",
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        self.write(f"HTTP/1.1 {error.status} {error.title}\r\n{lines}\r\n".encode() + body)

    def pending_bytes(self) -> int:
        """Bytes written but not acknowledged by the client: in the transport and in the kernel's send queue."""
        return self._transport.get_write_buffer_size() + _unacknowledged(self._transport.get_extra_info("socket"))

    def wait_for_empty(self, wanted: bool) -> None:
        """With True a send waits until the transport's buffer is empty; with False until it is below the
        usual limit."""
        if self._transport.is_closing():
            return
        if wanted:
            self._transport.set_write_buffer_limits(high=0)
        else:
            self._transport.set_write_buffer_limits()

    def abort(self) -> None:
        """Ends the connection immediately; `close` would wait for the client to read."""
        self._transport.abort()

    def watch(self) -> None:
        """Aborts the connection if the client stops reading. uvicorn and `close` would wait without limit."""
        left = self._transport.get_write_buffer_size()
        if left and self._timer is None:
            self._timer = self._loop.call_later(STALL_S, self._check, self._written_bytes - left)

    def stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self, read_before: int) -> None:
        self._timer = None
        left = self._transport.get_write_buffer_size()
        if left and not self.paced and self._written_bytes - left - read_before < MIN_READ_BYTES:
            log.warning("client stopped reading", unsent_bytes=left)
            self._transport.abort()
        else:
            self.watch()


def _unacknowledged(sock: Any) -> int:
    """Bytes in the kernel's send queue (SIOCOUTQ on Linux); 0 where the kernel does not tell."""
    if sock is None or not sys.platform.startswith("linux"):
        return 0
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
    except (OSError, ValueError):
        return 0  # the socket was closed meanwhile
    return int(struct.unpack("i", answer)[0])

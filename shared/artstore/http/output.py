"""What a connection writes: counted, and given up when its client does not take it."""

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
MIN_TAKEN_BYTES = 16 << 10
"""Of an answer a client must take so much, or all of it, in each STALL_S."""


UNSENT_BYTES = 256 << 10
"""What the kernel takes of an answer beyond what is on its way to the client. Without this limit it takes up to 4 MiB for each
client that reads slowly, and a fast one gains nothing by it."""
_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", None)  # Linux and macOS


class Output:
    """The transport as an exchange uses it: `close` is the connection's own decision."""

    __slots__ = ("_loop", "_timer", "_transport", "_written_bytes", "close", "is_closing", "paced")

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, close: Callable[[], None]
    ) -> None:
        self._transport, self._loop, self.close = transport, loop, close
        self.is_closing = transport.is_closing
        self._written_bytes = 0
        self.paced = False
        """A body is being sent whose sender measures the client itself, more closely (`artstore.http.sending`)."""
        self._timer: asyncio.TimerHandle | None = None
        if _TCP_NOTSENT_LOWAT is not None:
            with contextlib.suppress(OSError):  # not a TCP socket, or gone already
                transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_BYTES)

    def write(self, data: bytes) -> None:
        self._written_bytes += len(data)
        self._transport.write(data)

    def write_problem(self, error: ArtStoreError, request_id: str) -> None:
        """A whole answer to what never becomes a request of the application."""
        log.warning("refused before the edge", request_id=request_id, code=error.code, detail=error.detail)
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
        """Written, and not acknowledged by the client's side: in the transport, and in the kernel's send queue."""
        return self._transport.get_write_buffer_size() + _unacknowledged(self._transport.get_extra_info("socket"))

    def wait_for_empty(self, wanted: bool) -> None:
        """Whether a send waits until the transport holds nothing, or only until it holds little as usual."""
        if self._transport.is_closing():
            return
        if wanted:
            self._transport.set_write_buffer_limits(high=0)
        else:
            self._transport.set_write_buffer_limits()

    def abort(self) -> None:
        """Ends the connection at once. `close` would go on waiting for the client."""
        self._transport.abort()

    def watch(self) -> None:
        """Ends the connection unless its client takes what is written. uvicorn and `close` wait for that without limit."""
        left = self._transport.get_write_buffer_size()
        if left and self._timer is None:
            self._timer = self._loop.call_later(STALL_S, self._check, self._written_bytes - left)

    def forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self, taken_before: int) -> None:
        self._timer = None
        left = self._transport.get_write_buffer_size()
        if left and not self.paced and self._written_bytes - left - taken_before < MIN_TAKEN_BYTES:
            log.warning("answer not taken", left_bytes=left)
            self._transport.abort()
        else:
            self.watch()


def _unacknowledged(sock: Any) -> int:
    """Bytes in the kernel's send queue (Linux: SIOCOUTQ); 0 where it cannot be asked."""
    if sock is None or not sys.platform.startswith("linux"):
        return 0
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
    except (OSError, ValueError):
        return 0  # closed meanwhile: its descriptor is -1 then
    return int(struct.unpack("i", answer)[0])

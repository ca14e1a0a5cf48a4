"""A way to S3 that can be cut: altogether, or only for requests that change something."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LOOKS = (b"GET ", b"HEAD ")
HEAD_END = b"\r\n\r\n"


class Way:
    """One request per connection, so that each can be judged by its method."""

    def __init__(self, port: int) -> None:
        self._to = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.open = True
        self.takes_changes = True
        self.changes_left: int | None = None
        """After so many more it takes none."""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def mend(self) -> None:
        self.open = self.takes_changes = True
        self.changes_left = None

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            head = b""
            while HEAD_END not in head:
                piece = client.recv(65536)
                if not piece:
                    return
                head += piece
            if not (self.open and (head.startswith(LOOKS) or self._takes_change())):
                return
            with socket.create_connection(self._to) as server:
                server.sendall(head.replace(HEAD_END, b"\r\nConnection: close" + HEAD_END, 1))
                threading.Thread(target=_pump, args=(client, server), daemon=True).start()
                _pump(server, client)

    def _takes_change(self) -> bool:
        if self.changes_left is not None:
            self.takes_changes = self.changes_left > 0
            self.changes_left -= 1
        return self.takes_changes


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(1 << 18):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def way_to(port: int) -> Iterator[Way]:
    way = Way(port)
    try:
        yield way
    finally:
        way.close()

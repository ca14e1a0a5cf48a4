"""Which TCP ports are free on the loopback address."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, Sequence

from .refusal import Refused

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
        return True


def require_free(wanted: Mapping[str, int]) -> None:
    """Raises Refused for the first service whose port is not to be had."""
    for name, port in wanted.items():
        if not 1 <= port <= 65535:
            raise Refused(f"port {port} for {name} does not exist; choose another --port-base")
        if not is_free(port):
            raise Refused(f"port {port} for {name} is taken by another program; choose another --port-base")


def choose(names: Sequence[str], kept: Mapping[str, int]) -> dict[str, int]:
    """A free port for each name: the one of last time where it is still free. All different."""
    with contextlib.ExitStack() as held:
        chosen: dict[str, int] = {}
        for name in names:
            probe = held.enter_context(socket.socket())
            port = kept.get(name, 0)
            if port:  # whose last connections may still be in TIME_WAIT
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, port if port not in chosen.values() and is_free(port) else 0))
            chosen[name] = probe.getsockname()[1]
        return chosen

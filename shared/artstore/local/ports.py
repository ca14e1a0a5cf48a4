"""TCP ports on the loopback address."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, Sequence

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


def choose_ports(names: Sequence[str], preferred: Mapping[str, int]) -> dict[str, int]:
    """A free port for each name: the preferred one if it is free. All are different."""
    with contextlib.ExitStack() as held:
        chosen: dict[str, int] = {}
        for name in names:
            probe = held.enter_context(socket.socket())
            port = preferred.get(name, 0)
            if port:  # its last connections may still be in TIME_WAIT
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, port if port not in chosen.values() and is_free(port) else 0))
            chosen[name] = probe.getsockname()[1]
        return chosen

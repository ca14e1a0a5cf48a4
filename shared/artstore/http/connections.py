"""The open connections of a process, and which one it closes when there are too many.

A new connection is refused only if no other one can be closed. The first to be closed is the oldest that has
not shown valid credentials, then the one that has been idle longest. So thousands of idle unauthenticated
clients do not lock out others, and a connection with an authorised request in progress is never closed for
another.
"""

from __future__ import annotations

import resource
from typing import Protocol

from artstore.logs import get_logger

log = get_logger("artstore.http")

MAX_CONNECTIONS = 4000
MAX_UNAUTHENTICATED_PER_ADDRESS = 1000
"""Connections of one address that have not shown valid credentials. Generous, because a gateway or all
modules of a machine share one address; a connection counts as authenticated after its first authorised
request."""
MAX_WAITING_BYTES = 32 << 20
"""Pipelined requests of all connections together, received before the response to the request before them."""
FILES_PER_CONNECTION = 3
"""The socket, a file or a connection to another module, and one in reserve."""


class Evictable(Protocol):
    """A connection that can be closed to admit another."""

    address: str

    @property
    def authorised(self) -> bool:
        """True if the latest request has shown valid credentials."""
        ...

    def evict(self) -> None: ...


class Connections:
    """The open connections of one process. Every operation takes constant time."""

    def __init__(self, limit: int = MAX_CONNECTIONS, per_address: int = MAX_UNAUTHENTICATED_PER_ADDRESS) -> None:
        self._limit, self._per_address = limit, per_address
        self._unauthenticated: dict[Evictable, None] = {}
        """In the order of their arrival."""
        self._by_address: dict[str, dict[Evictable, None]] = {}
        self._idle: dict[Evictable, None] = {}
        """Authenticated connections without a request in progress, longest idle first."""
        self._authenticated: set[Evictable] = set()
        self.waiting_bytes, self.max_waiting_bytes = 0, MAX_WAITING_BYTES
        self.stopping = False
        """The server stops: each connection gets one more response at the most."""

    def __len__(self) -> int:
        return len(self._unauthenticated) + len(self._authenticated)

    def add(self, connection: Evictable) -> bool:
        """Admits a new connection, if necessary by closing another one. Returns False if no connection can be
        closed."""
        if len(self._by_address.get(connection.address, ())) >= self._per_address:
            self._evict_unauthenticated(self._by_address[connection.address])
        if (
            len(self) >= self._limit
            and not self._evict_unauthenticated(self._unauthenticated)
            and not self._evict_idle()
        ):
            return False
        self._unauthenticated[connection] = None
        self._by_address.setdefault(connection.address, {})[connection] = None
        return True

    def remove(self, connection: Evictable) -> None:
        self._remove_unauthenticated(connection)
        self._authenticated.discard(connection)
        self._idle.pop(connection, None)

    def begin(self, connection: Evictable) -> None:
        """Call it when a request begins."""
        self._idle.pop(connection, None)

    def end(self, connection: Evictable) -> None:
        """Call it when the response has ended, while `connection.authorised` still refers to that request."""
        if connection in self._unauthenticated and connection.authorised:
            self._mark_authenticated(connection)
        if connection in self._authenticated:
            self._idle[connection] = None

    def _evict_unauthenticated(self, among: dict[Evictable, None]) -> bool:
        while among:
            oldest = next(iter(among))
            if oldest.authorised:
                self._mark_authenticated(oldest)  # its first authorised request is still in progress
                continue
            self.remove(oldest)
            oldest.evict()
            return True
        return False

    def _evict_idle(self) -> bool:
        for oldest in self._idle:
            self.remove(oldest)
            oldest.evict()
            return True
        return False

    def _mark_authenticated(self, connection: Evictable) -> None:
        self._remove_unauthenticated(connection)
        self._authenticated.add(connection)

    def _remove_unauthenticated(self, connection: Evictable) -> None:
        self._unauthenticated.pop(connection, None)
        same = self._by_address.get(connection.address)
        if same is not None:
            same.pop(connection, None)
            if not same:
                del self._by_address[connection.address]


def allow_connections(count: int) -> int:
    """Raises the process's soft limit of open files to FILES_PER_CONNECTION × `count`, as far as the hard
    limit permits; never lowers it. Returns the resulting soft limit. Many shells set 1024."""
    wanted = FILES_PER_CONNECTION * count
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("open file limit is low", allowed=allowed, wanted=wanted)
    return allowed

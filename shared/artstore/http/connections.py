"""Which connections a process has open, and which one it closes when there are too many.

A new connection is never refused while another one can be spared. Spared first is the oldest that has not shown valid
credentials, then the one that has been idle longest. So thousands of idle strangers lock nobody out, and a connection on which
an authorised request is under way is never closed for another.
"""

from __future__ import annotations

from typing import Protocol

MAX_CONNECTIONS = 4000
MAX_STRANGERS_PER_ADDRESS = 1000
"""Connections of one address that have not shown valid credentials. Generous: a gateway, or all modules of a machine, are
one address, and its connections have shown credentials as soon as one request on them was authorised."""
MAX_WAITING_BYTES = 32 << 20
"""Requests of all connections together that came before the answer to the one before them."""


class Spared(Protocol):
    """A connection, as far as this file knows it."""

    address: str

    @property
    def authorised(self) -> bool:
        """Whether the request under way, if there is one, has shown valid credentials."""
        ...

    def evict(self) -> None: ...


class Connections:
    """The open connections of one process. Every operation takes constant time."""

    def __init__(self, limit: int = MAX_CONNECTIONS, per_address: int = MAX_STRANGERS_PER_ADDRESS) -> None:
        self._limit, self._per_address = limit, per_address
        self._strangers: dict[Spared, None] = {}
        """In the order in which they came."""
        self._by_address: dict[str, dict[Spared, None]] = {}
        self._idle: dict[Spared, None] = {}
        """Known ones without a request under way, idle longest first."""
        self._known: set[Spared] = set()
        self.waiting_bytes, self.max_waiting_bytes = 0, MAX_WAITING_BYTES

    def __len__(self) -> int:
        return len(self._strangers) + len(self._known)

    def add(self, connection: Spared) -> bool:
        """Makes room for a new connection by closing another one. False when none can be spared."""
        if len(self._by_address.get(connection.address, ())) >= self._per_address:
            self._evict_stranger(self._by_address[connection.address])
        if len(self) >= self._limit and not self._evict_stranger(self._strangers) and not self._evict_idle():
            return False
        self._strangers[connection] = None
        self._by_address.setdefault(connection.address, {})[connection] = None
        return True

    def remove(self, connection: Spared) -> None:
        self._forget_stranger(connection)
        self._known.discard(connection)
        self._idle.pop(connection, None)

    def begin(self, connection: Spared) -> None:
        """A request has begun."""
        self._idle.pop(connection, None)

    def end(self, connection: Spared) -> None:
        """Its answer has ended; `connection.authorised` still speaks of that request."""
        if connection in self._strangers and connection.authorised:
            self._know(connection)
        if connection in self._known:
            self._idle[connection] = None

    def _evict_stranger(self, among: dict[Spared, None]) -> bool:
        while among:
            oldest = next(iter(among))
            if oldest.authorised:
                self._know(oldest)  # its first authorised request is still under way
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

    def _know(self, connection: Spared) -> None:
        self._forget_stranger(connection)
        self._known.add(connection)

    def _forget_stranger(self, connection: Spared) -> None:
        self._strangers.pop(connection, None)
        same = self._by_address.get(connection.address)
        if same is not None:
            same.pop(connection, None)
            if not same:
                del self._by_address[connection.address]

"""Decides which failures of a call count against the peer's circuit breaker."""

from __future__ import annotations

import aiohttp

from artstore.errors import ArtStoreError, FileDamaged, Overloaded, StorageFull, from_wire

MAX_ANSWER_BYTES = 16 << 20
"""Limit for a response that is read completely; streams have no limit."""


class PeerFault(Exception):
    """A failure that counts against the peer: no connection, a timeout, most responses of 500 and above.
    Callers of `Peer` get `error` instead."""

    def __init__(self, error: ArtStoreError) -> None:
        super().__init__(str(error))
        self.error = error


def is_at_fault(name: str, error: ArtStoreError) -> bool:
    """True if a response of 500 or above counts against the peer. It does not if a disk is full, one file is
    damaged, the peer has too many requests open, or a service behind the peer is unavailable."""
    return not isinstance(error, StorageFull | FileDamaged | Overloaded) and error.fields.get("away", name) == name


async def failure_of(response: aiohttp.ClientResponse) -> ArtStoreError:
    """The error in a response of 500 or above; derived from the status alone if the body cannot be read."""
    try:
        body = await response.content.read(MAX_ANSWER_BYTES)
    except (aiohttp.ClientError, OSError, TimeoutError):
        body = b""
    finally:
        response.release() if response.content.at_eof() else response.close()
    return from_wire(response.status, body)

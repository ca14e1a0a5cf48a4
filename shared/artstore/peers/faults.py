"""Which failures of a call count against the peer's circuit breaker."""

from __future__ import annotations

import aiohttp

from artstore.errors import ArtStoreError, FileDamaged, Overloaded, StorageFull, from_wire

MAX_ANSWER_BYTES = 16 << 20
"""Of an answer that is taken whole; streams have no limit."""


class PeerFault(Exception):
    """Counts against the peer: no connection, a timeout, most answers of 500 and above. Never leaves who raised it."""

    def __init__(self, error: ArtStoreError) -> None:
        super().__init__(str(error))
        self.error = error


def is_at_fault(name: str, error: ArtStoreError) -> bool:
    """Of an answer of 500 and above: not when a disk is full, one file is damaged, the peer has too many requests open, or a
    service behind it is away."""
    return not isinstance(error, StorageFull | FileDamaged | Overloaded) and error.fields.get("away", name) == name


async def failure_of(response: aiohttp.ClientResponse) -> ArtStoreError:
    """What an answer of 500 and above says; without its body the status says enough."""
    try:
        body = await response.content.read(MAX_ANSWER_BYTES)
    except (aiohttp.ClientError, OSError, TimeoutError):
        body = b""
    finally:
        response.release() if response.content.at_eof() else response.close()
    return from_wire(response.status, body)

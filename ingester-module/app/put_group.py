"""Small files on their way to one element: those of concurrent uploads share a request (artstore.contracts.storage).

No upload waits for others to come: a request takes what arrived while the earlier ones were under way.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from artstore.contracts.storage import (
    PUT_GROUP_PATH,
    PUT_GROUP_TYPE,
    GroupedPut,
    GroupedResult,
    decode_results,
    encode_group,
)
from artstore.errors import ArtStoreError, Overloaded, Unavailable, from_wire
from artstore.groups import Group
from artstore.peers.client import Peer
from artstore.peers.faults import PeerFault, is_at_fault
from artstore.peers.pools import MAX_TRANSFERS

FILES_PER_REQUEST = 32
"""So many files of any size and description fit in MAX_PUT_GROUP_BYTES."""
REQUESTS_AT_ONCE = 2
"""While the element syncs one group, it receives the next."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    peer: Peer
    put: GroupedPut
    since_s: float


class PutGroups:
    """The groups of one element. Each file counts at its breaker as a call of its own would."""

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._group: Group[_Waiting, bytes] = Group(self._send, max_items=FILES_PER_REQUEST, parallel=REQUESTS_AT_ONCE)
        self._files = 0
        self._failure: ArtStoreError | None = None
        self._failed_s = -math.inf

    async def put(self, peer: Peer, put: GroupedPut) -> bytes:
        """The file's attr.json. Raises the element's error about this file, Unavailable, Overloaded."""
        if self._files >= MAX_TRANSFERS:
            raise Overloaded(f"{MAX_TRANSFERS} files wait for {peer.name}: try again later", limit=MAX_TRANSFERS)
        self._files += 1
        try:
            return await self._group.add(_Waiting(peer, put, asyncio.get_running_loop().time()))
        finally:
            self._files -= 1

    async def put_all(self, peer: Peer, puts: Sequence[GroupedPut]) -> Sequence[bytes | ArtStoreError]:
        """Files of one batch, at most MAX_PUT_GROUP, in a request of their own: attr.json or the element's error for each.
        Raises an error that concerns all of them."""
        return await self._ask(peer, puts)

    async def _send(self, waiting: list[_Waiting]) -> Sequence[bytes | ArtStoreError]:
        peer = waiting[-1].peer
        stale, error = self._find_stale(peer, waiting)
        for _ in range(stale):
            peer.breaker.count(PeerFault(error))
        puts = [one.put for one in waiting[stale:]]
        return [*[error] * stale, *(await self._ask(peer, puts) if puts else ())]

    def _find_stale(self, peer: Peer, waiting: list[_Waiting]) -> tuple[int, ArtStoreError]:
        """How many of the longest waiting fail without being sent, and their error: in requests of their own they would have
        failed with the last one, or reached the timeout."""
        expired_s = asyncio.get_running_loop().time() - self._timeout_s
        before_s = max(self._failed_s, expired_s)
        stale = sum(one.since_s <= before_s for one in waiting)
        if self._failure is not None and self._failed_s >= expired_s:
            return stale, self._failure
        return stale, Unavailable(f"{peer.name} did not take the file in time", away=peer.name)

    async def _ask(self, peer: Peer, puts: Sequence[GroupedPut]) -> list[bytes | ArtStoreError]:
        try:
            answer = await peer.call(
                "POST",
                PUT_GROUP_PATH,
                body=encode_group(puts),
                headers={"content-type": PUT_GROUP_TYPE},
                timeout_s=self._timeout_s,
                kind="transfer",
            )
        except ArtStoreError as error:
            if isinstance(error.__cause__, PeerFault):
                self._failure, self._failed_s = error, asyncio.get_running_loop().time()
                for _ in puts[1:]:  # the call has counted one
                    peer.breaker.count(error.__cause__)
            raise
        return [_outcome(peer, result) for result in decode_results(answer.body, len(puts))]


def _outcome(peer: Peer, result: GroupedResult) -> bytes | ArtStoreError:
    if result.status < 400:
        return result.body
    error = from_wire(result.status, result.body)
    if result.status >= 500 and is_at_fault(peer.name, error):
        peer.breaker.count(PeerFault(error))
    return error

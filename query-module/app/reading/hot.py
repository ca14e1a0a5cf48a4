"""Small contents: concurrent reads share a request to the element, and hot ones stay in memory, by checksum.

The attributes, looked up as for any request, name the checksum, so an announced change or delete is effective at
once. Bytes are verified when the element gives them, and kept no longer than attributes, which bounds the effect of a
change that was not announced.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from artstore.clock import Clock
from artstore.contracts.elements import Element
from artstore.contracts.files import Attributes
from artstore.contracts.storage import (
    FILES_HEADER,
    MAX_FILES_READ,
    FileRead,
    ReadRefused,
    decode_reads,
    read_attributes,
)
from artstore.errors import ArtStoreError, BadGateway, FileDamaged, Malformed, Unavailable, from_wire
from artstore.groups import Group
from artstore.peers.faults import PeerFault
from artstore.peers.session import Peers

ENTRY_BYTES = 300
"""Memory that an entry needs beside its bytes."""
REQUESTS_AT_ONCE = 2
"""To one element: a slow one does not delay the next. With more, fewer files share a request."""


class StaleAttributes(Exception):
    """The element's content does not match the cached attributes."""


class HotContents:
    """An LRU cache of verified bytes, of at most `max_bytes`; 0 keeps none. `ttl_s` is that of attributes in memory."""

    def __init__(self, clock: Clock, max_bytes: int, ttl_s: float, registry: CollectorRegistry) -> None:
        self._clock, self._max_bytes, self._ttl_s, self._bytes = clock, max_bytes, ttl_s, 0
        self._held: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        lookups = Counter("content_cache_total", "Small contents looked up in memory", ["result"], registry=registry)
        self._hits, self._misses = lookups.labels("hit"), lookups.labels("miss")
        used = Gauge("content_cache_bytes", "Memory that small contents take", registry=registry)
        used.set_function(lambda: self._bytes)

    def find(self, checksum: str) -> bytes | None:
        held = self._held.get(checksum)
        if held is None or held[0] <= self._clock.monotonic_s():
            self._misses.inc()
            return None
        self._hits.inc()
        self._held.move_to_end(checksum)
        return held[1]

    def keep(self, checksum: str, content: bytes) -> None:
        self._drop(checksum)
        self._held[checksum] = (self._clock.monotonic_s() + self._ttl_s, content)
        self._bytes += len(content) + ENTRY_BYTES
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._held)))

    def _drop(self, checksum: str) -> None:
        held = self._held.pop(checksum, None)
        if held is not None:
            self._bytes -= len(held[1]) + ENTRY_BYTES


class SmallFiles:
    """Reads files of up to SMALL_FILE_BYTES. `timeout_s` bounds the wait for one file. Each file counts at the
    element's breaker, as a request of its own would."""

    def __init__(self, peers: Peers, hot: HotContents, timeout_s: float) -> None:
        self._peers, self._hot, self._timeout_s = peers, hot, timeout_s
        self._groups: dict[str, Group[tuple[str, Element], FileRead | None]] = {}

    def find_hot(self, attributes: Attributes) -> bytes | None:
        return self._hot.find(attributes.checksum)

    async def read(self, file_id: str, element: Element) -> FileRead | None:
        """The file as the element has it; None when it must be asked for this file alone. Raises the element's
        errors and Unavailable."""
        group = self._groups.get(element.id)
        if group is None:
            group = Group(self._read_together, max_items=MAX_FILES_READ, parallel=REQUESTS_AT_ONCE)
            self._groups[element.id] = group
        try:
            async with asyncio.timeout(self._timeout_s):
                return await group.add((file_id, element))
        except TimeoutError as error:
            raise Unavailable(f"{element.id} does not answer in time", away=element.id) from error

    def verify(self, read: FileRead, attributes: Attributes) -> bytes | None:
        """The bytes that the attributes describe, which are then kept; None without bytes.

        Raises FileDamaged, BadGateway, and StaleAttributes when the element describes other bytes.
        """
        content = read.content
        if content is None:
            return None
        if f"sha256:{hashlib.sha256(content).hexdigest()}" == attributes.checksum:
            self._hot.keep(attributes.checksum, content)
            return content
        if read_attributes(read.record, attributes.storage_element_id).checksum == attributes.checksum:
            raise FileDamaged("the stored bytes do not match their checksum", file_id=attributes.file_id)
        raise StaleAttributes("the element has other bytes")

    async def _read_together(self, wanted: Sequence[tuple[str, Element]]) -> list[FileRead | BaseException | None]:
        file_ids = list(dict.fromkeys(file_id for file_id, _ in wanted))
        element = wanted[-1][1]  # its URL may have changed
        peer = self._peers.to(element.id, element.url)
        headers = {FILES_HEADER: ",".join(file_ids)}
        try:
            answer = await peer.call(
                "GET", "/api/files/contents", headers=headers, timeout_s=self._timeout_s, kind="transfer"
            )
        except Malformed:  # an element of an earlier version does not know this request
            return [None] * len(wanted)
        except ArtStoreError as error:
            if isinstance(error.__cause__, PeerFault):
                for _ in wanted[1:]:  # the call has counted one
                    peer.breaker.count(error.__cause__)
            raise
        try:
            reads = dict(zip(file_ids, decode_reads(answer.body), strict=True))
        except ValueError as error:
            raise BadGateway(f"{element.id} answered something other than files") from error
        return [_result(reads[file_id]) for file_id, _ in wanted]


def _result(read: FileRead | ReadRefused | None) -> FileRead | BaseException | None:
    return from_wire(read.status, read.problem) if isinstance(read, ReadRefused) else read

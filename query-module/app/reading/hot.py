"""Contents in memory, by checksum, and small files, of which concurrent reads share a request to the element.

A small content is kept at its first read. A larger one, of up to a MiB, is kept at its second, so that a pass over many
files does not displace the contents that are read again.

The attributes, looked up as for any request, name the checksum, so an announced change or delete is effective at
once. Bytes are verified when the element gives them, and kept no longer than attributes, which bounds the effect of a
change that was not announced.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
from artstore.logs import get_logger
from artstore.peers.faults import PeerFault
from artstore.peers.session import Peers

log = get_logger("query.hot")

MAX_HOT_BYTES = 1 << 20
"""A larger content is never kept: its digest would delay other requests for longer than a millisecond."""
MIN_ENTRIES = 32
"""The memory has space for this many of the largest contents that are kept."""
MAX_READ_ONCE = 10_000
"""Checksums of larger contents that were read at least once."""
ENTRY_BYTES = 300
"""Memory that an entry needs beside its bytes."""
REQUESTS_AT_ONCE = 2
"""To one element: a slow one does not delay the next. With more, fewer files share a request."""


class StaleAttributes(Exception):
    """The element's content does not match the cached attributes."""


class HotContents:
    """An LRU cache of verified bytes, of at most `max_bytes`; 0 keeps none. `ttl_s` is that of attributes in memory.

    Larger contents that are being sent or copied may take as much again: a slow client needs one after it was displaced.
    """

    def __init__(self, clock: Clock, max_bytes: int, ttl_s: float, registry: CollectorRegistry) -> None:
        self._clock, self._max_bytes, self._ttl_s, self._bytes = clock, max_bytes, ttl_s, 0
        self._max_entry_bytes = min(MAX_HOT_BYTES, max_bytes // MIN_ENTRIES)
        self._held: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._read_once: OrderedDict[str, None] = OrderedDict()
        self._in_use_bytes = 0
        lookups = Counter("content_cache_total", "Contents looked up in memory", ["result"], registry=registry)
        self._hits, self._misses = lookups.labels("hit"), lookups.labels("miss")
        used = Gauge("content_cache_bytes", "Memory that contents take", registry=registry)
        used.set_function(lambda: self._bytes)

    def has_space_for(self, size_bytes: int) -> bool:
        """A larger content of this size may be kept, and be in use now."""
        return size_bytes <= self._max_entry_bytes and self._in_use_bytes + size_bytes <= self._max_bytes

    @contextmanager
    def in_use(self, size_bytes: int) -> Iterator[None]:
        self._in_use_bytes += size_bytes
        try:
            yield
        finally:
            self._in_use_bytes -= size_bytes

    def is_read_again(self, checksum: str) -> bool:
        """False at the first read of this content."""
        if checksum in self._read_once:
            self._read_once.move_to_end(checksum)
            return True
        self._read_once[checksum] = None
        if len(self._read_once) > MAX_READ_ONCE:
            self._read_once.popitem(last=False)
        return False

    @contextmanager
    def copy(self, checksum: str, size_bytes: int) -> Iterator[list[bytes]]:
        """Yields a list for the pieces of a larger content that is being sent. If it has all of them at the end and they
        match the checksum, the content is kept."""
        pieces: list[bytes] = []
        with self.in_use(size_bytes):
            yield pieces
        held = self._held.get(checksum)
        if held is not None and held[0] > self._clock.monotonic_s():
            return  # a concurrent read has kept it
        if sum(map(len, pieces)) != size_bytes:
            return  # the download ended early
        content = b"".join(pieces)
        if _checksum_of(content) == checksum:
            self.keep(checksum, content)
        else:
            log.error("the content sent does not match its checksum", checksum=checksum)

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
        if _checksum_of(content) == attributes.checksum:
            self._hot.keep(attributes.checksum, content)
            return content
        if read_attributes(read.record, attributes.storage_element_id).checksum == attributes.checksum:
            raise FileDamaged("the stored bytes do not match their checksum", file_id=attributes.file_id)
        raise StaleAttributes("the element has other bytes")

    async def read_alone(self, attributes: Attributes, element: Element) -> bytes:
        """The bytes of a file that came damaged together with others. The element checks a file that it is asked for alone,
        and quarantines it. Raises FileDamaged, Quarantined, the element's other errors."""
        answer = await self._peers.to(element.id, element.url).call(
            "GET", f"/api/files/{attributes.file_id}/content", timeout_s=self._timeout_s, kind="transfer"
        )
        if _checksum_of(answer.body) != attributes.checksum:
            raise FileDamaged("the stored bytes do not match their checksum", file_id=attributes.file_id)
        return answer.body

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


def _checksum_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _result(read: FileRead | ReadRefused | None) -> FileRead | BaseException | None:
    return from_wire(read.status, read.problem) if isinstance(read, ReadRefused) else read

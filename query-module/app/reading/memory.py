"""Level 1: an LRU cache in this process, bounded in files and bytes, for minutes, and a cache of "not found", for seconds."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

from artstore.clock import Clock
from artstore.contracts.files import Attributes, decode
from artstore.http.content_head import ContentHead, head_of

MAX_ABSENT = 10_000
"""Ids remembered as not found."""
ABSENT_TTL_S = 5.0
"""How long an id stays remembered as not found: a new file is hidden for no longer."""
ENTRY_BYTES = 350
"""Memory that an entry needs beside its attr.json."""
MEAN_BYTES = 1024
"""Memory for each entry. Attributes that are longer on average leave space for fewer of them."""
MAX_DECODED = 1000
"""Records kept in the form that answers need, which takes three times as much: those that are read again and again."""


@dataclass(slots=True)
class Record:
    """One file's attributes. `encoded` is its attr.json, which is also the answer's body."""

    attributes: Attributes
    encoded: bytes
    saga_open: bool = False
    """The element does not know of a commit yet: the record is answered, but not written to the catalog as available."""
    _head: ContentHead | None = None

    @property
    def head(self) -> ContentHead:
        if self._head is None:
            self._head = head_of(self.attributes)
        return self._head

    @property
    def revision(self) -> int:
        return self.attributes.revision


@dataclass(frozen=True, slots=True)
class _Kept:
    until_s: float
    revision: int
    encoded: bytes


class Memory:
    """Keeps the higher of two revisions of a file, as attr.json: most files of an archive are read once."""

    def __init__(self, clock: Clock, *, max_entries: int, ttl_s: float, absent_ttl_s: float) -> None:
        self._clock = clock
        self._max_entries, self._max_bytes = max_entries, max_entries * MEAN_BYTES
        self._ttl_s = ttl_s
        self._absent_ttl_s = absent_ttl_s
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0
        self._record = lru_cache(maxsize=MAX_DECODED)(_record)
        self._absent: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, file_id: str) -> Record | None:
        kept = self._kept.get(file_id)
        if kept is None:
            return None
        if kept.until_s <= self._clock.monotonic_s():
            self._remove(file_id)
            return None
        self._kept.move_to_end(file_id)
        return self._record(kept.encoded)

    def is_absent(self, file_id: str) -> bool:
        """All levels said "not found" a moment ago."""
        until = self._absent.get(file_id)
        if until is None:
            return False
        if until <= self._clock.monotonic_s():
            del self._absent[file_id]
            return False
        return True

    def keep(self, record: Record) -> None:
        file_id, now_s = record.attributes.file_id, self._clock.monotonic_s()
        held = self._kept.get(file_id)
        if held is not None and held.until_s > now_s and held.revision > record.revision:
            return
        self._remove(file_id)
        self._absent.pop(file_id, None)
        self._kept[file_id] = _Kept(now_s + self._ttl_s, record.revision, record.encoded)
        self._bytes += len(record.encoded) + ENTRY_BYTES
        while len(self._kept) > self._max_entries or self._bytes > self._max_bytes:
            self._remove(next(iter(self._kept)))

    def keep_absent(self, file_id: str) -> None:
        self._remove(file_id)
        self._absent[file_id] = self._clock.monotonic_s() + self._absent_ttl_s
        self._absent.move_to_end(file_id)
        if len(self._absent) > MAX_ABSENT:
            self._absent.popitem(last=False)

    def drop(self, file_id: str, floor: int) -> None:
        """Drops revisions below `floor` and a cached "not found"."""
        held = self._kept.get(file_id)
        if held is not None and held.revision < floor:
            self._remove(file_id)
        self._absent.pop(file_id, None)

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0
        self._record.cache_clear()
        self._absent.clear()

    def _remove(self, file_id: str) -> None:
        held = self._kept.pop(file_id, None)
        if held is not None:
            self._bytes -= len(held.encoded) + ENTRY_BYTES


def _record(encoded: bytes) -> Record:
    return Record(decode(encoded), encoded)

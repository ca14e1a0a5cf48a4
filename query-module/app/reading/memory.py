"""Level 1: a bounded LRU cache in this process, for minutes, and a cache of "not found", for seconds."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from artstore.clock import Clock
from artstore.contracts.files import Attributes

from .headers import ContentHead, head_of

MAX_ABSENT = 10_000
"""Ids remembered as not found."""
ABSENT_TTL_S = 5.0
"""How long an id stays remembered as not found: a new file is hidden for no longer."""


@dataclass(slots=True)
class Record:
    """One file's attributes. `encoded` is its attr.json, which is also the answer's body."""

    attributes: Attributes
    encoded: bytes
    saga_open: bool = False
    """The element does not know of a commit yet: the record is answered, but not written to the catalog as available."""
    _head: ContentHead | None = None
    _head_used: bool = False

    @property
    def head(self) -> ContentHead:
        """Kept from its second use on, because most files of an archive are read once."""
        if self._head is not None:
            return self._head
        head = head_of(self.attributes)
        if self._head_used:
            self._head = head
        self._head_used = True
        return head

    @property
    def revision(self) -> int:
        return self.attributes.revision


class Memory:
    """Keeps the higher of two revisions of a file."""

    def __init__(self, clock: Clock, *, max_entries: int, ttl_s: float, absent_ttl_s: float) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self._ttl_s = ttl_s
        self._absent_ttl_s = absent_ttl_s
        self._records: OrderedDict[str, tuple[float, Record]] = OrderedDict()
        self._absent: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def find(self, file_id: str) -> Record | None:
        held = self._records.get(file_id)
        if held is None:
            return None
        until, record = held
        if until <= self._clock.monotonic_s():
            del self._records[file_id]
            return None
        self._records.move_to_end(file_id)
        return record

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
        file_id = record.attributes.file_id
        held = self.find(file_id)
        if held is not None and held.revision > record.revision:
            return
        self._absent.pop(file_id, None)
        self._records[file_id] = (self._clock.monotonic_s() + self._ttl_s, record)
        self._records.move_to_end(file_id)
        if len(self._records) > self._max_entries:
            self._records.popitem(last=False)

    def keep_absent(self, file_id: str) -> None:
        self._records.pop(file_id, None)
        self._absent[file_id] = self._clock.monotonic_s() + self._absent_ttl_s
        self._absent.move_to_end(file_id)
        if len(self._absent) > MAX_ABSENT:
            self._absent.popitem(last=False)

    def drop(self, file_id: str, floor: int) -> None:
        """Drops revisions below `floor` and a cached "not found"."""
        held = self._records.get(file_id)
        if held is not None and held[1].revision < floor:
            del self._records[file_id]
        self._absent.pop(file_id, None)

    def clear(self) -> None:
        self._records.clear()
        self._absent.clear()

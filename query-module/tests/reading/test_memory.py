"""Level 1 by itself, with time held still: the higher revision stays, and nothing for longer than its time."""

from __future__ import annotations

from itertools import permutations

import pytest
from msgspec.structs import replace

from app.reading.memory import Memory, Record
from artstore.clock import Clock, uuid7
from artstore.contracts.files import encode
from artstore.testing.fakes import new_file

FILE = new_file(b"content")
TTL_S, ABSENT_TTL_S = 300, 5
A, B, C, D, E = (str(uuid7()) for _ in range(5))


class Still(Clock):
    now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Still:
    return Still()


@pytest.fixture
def memory(clock: Still) -> Memory:
    return Memory(clock, max_entries=3, ttl_s=TTL_S, absent_ttl_s=ABSENT_TTL_S)


def record(revision: int, file_id: str = FILE.file_id) -> Record:
    attributes = replace(FILE, revision=revision, file_id=file_id)
    return Record(attributes, encode(attributes))


def revision_in(memory: Memory) -> int | None:
    found = memory.find(FILE.file_id)
    return found.revision if found is not None else None


@pytest.mark.parametrize("order", list(permutations((1, 2, 3))))
def test_memory_keeps_the_highest_revision_in_any_order(memory: Memory, order: tuple[int, ...]) -> None:
    for revision in order:
        memory.keep(record(revision))
    assert revision_in(memory) == 3


@pytest.mark.parametrize(("held", "floor", "left"), [(1, 1, 1), (1, 2, None), (5, 3, 5), (5, 6, None)])
def test_a_change_drops_lower_revisions(memory: Memory, held: int, floor: int, left: int | None) -> None:
    memory.keep(record(held))
    memory.drop(FILE.file_id, floor)
    assert revision_in(memory) == left


def test_entries_expire(memory: Memory, clock: Still) -> None:
    memory.keep(record(1))
    memory.keep_absent("another")
    clock.now_s = ABSENT_TTL_S
    assert (revision_in(memory), memory.is_absent("another")) == (1, False)
    clock.now_s = TTL_S
    assert revision_in(memory) is None
    assert len(memory) == 0


def test_a_found_file_is_not_cached_as_absent_and_vice_versa(memory: Memory) -> None:
    memory.keep_absent(FILE.file_id)
    memory.keep(record(1))
    assert not memory.is_absent(FILE.file_id)
    memory.keep_absent(FILE.file_id)
    assert revision_in(memory) is None
    memory.drop(FILE.file_id, 1)
    assert not memory.is_absent(FILE.file_id)


def test_the_least_recently_used_entry_is_evicted_first(memory: Memory) -> None:
    for file_id in (A, B, C):
        memory.keep(record(1, file_id))
    memory.find(A)
    memory.keep(record(1, D))
    assert [memory.find(file_id) is not None for file_id in (A, B, C, D)] == [True, False, True, True]


def test_long_attributes_leave_space_for_fewer_entries(memory: Memory) -> None:
    for file_id in (A, B, C):
        attributes = replace(FILE, file_id=file_id, tags=["x" * 1500])
        memory.keep(Record(attributes, encode(attributes)))
    assert [memory.find(file_id) is not None for file_id in (A, B, C)] == [False, False, True]
    memory.drop(C, 2)
    for file_id in (A, B, D):
        memory.keep(record(1, file_id))
    assert [memory.find(file_id) is not None for file_id in (A, B, D)] == [True, True, True]

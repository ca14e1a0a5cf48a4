from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from artstore.errors import Conflict
from artstore.groups import Group


class Flushes:
    """Records the groups, and holds each flush until it is let go."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.most_at_once = self._now = 0

    async def flush(self, items: list[int]) -> Sequence[int | BaseException]:
        self.groups.append(items)
        self.begun.set()
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            await self.go.wait()
            if 13 in items:
                raise ConnectionError("the flush failed")
            return [Conflict("refused") if item < 0 else item * 2 for item in items]
        finally:
            self._now -= 1


def adding(group: Group[int, int], *items: int) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(group.add(item)) for item in items]


async def test_callers_that_run_in_the_same_turn_share_a_flush() -> None:
    flushes = Flushes()
    flushes.go.set()
    group = Group(flushes.flush, max_items=10, parallel=2)
    assert await asyncio.gather(*adding(group, 1, 2, 3)) == [2, 4, 6]
    assert flushes.groups == [[1, 2, 3]]


async def test_a_write_during_a_flush_joins_the_next_flush() -> None:
    flushes = Flushes()
    group = Group(flushes.flush, max_items=10)
    first = adding(group, 1)
    await flushes.begun.wait()
    later = adding(group, 2, 3, 4)
    await asyncio.sleep(0)
    flushes.go.set()
    assert await asyncio.gather(*first, *later) == [2, 4, 6, 8]
    assert flushes.groups == [[1], [2, 3, 4]]


async def test_a_group_has_a_limit_and_flushes_do_not_overlap() -> None:
    flushes = Flushes()
    flushes.go.set()
    group = Group(flushes.flush, max_items=3)
    await asyncio.gather(*adding(group, *range(100, 120)))
    assert max(len(items) for items in flushes.groups) <= 3
    assert flushes.most_at_once == 1


async def test_as_many_flushes_run_at_once_as_are_allowed() -> None:
    flushes = Flushes()
    group = Group(flushes.flush, max_items=1, parallel=2)
    tasks = adding(group, 1, 2, 3)
    for _ in range(3):
        await asyncio.sleep(0)
    flushes.go.set()
    await asyncio.gather(*tasks)
    assert flushes.most_at_once == 2


async def test_one_item_that_is_refused_does_not_touch_the_others() -> None:
    flushes = Flushes()
    flushes.go.set()
    answers = await asyncio.gather(*adding(Group(flushes.flush, max_items=5), 1, -1, 2), return_exceptions=True)
    assert answers[0] == 2
    assert isinstance(answers[1], Conflict)
    assert answers[2] == 4


async def test_a_flush_that_fails_fails_its_own_items_and_no_later_ones() -> None:
    flushes = Flushes()
    group = Group(flushes.flush, max_items=5)
    failing = adding(group, 13)
    await flushes.begun.wait()
    later = adding(group, 1, 2)
    await asyncio.sleep(0)
    flushes.go.set()
    with pytest.raises(ConnectionError):
        await failing[0]
    assert await asyncio.gather(*later) == [2, 4]


async def test_a_caller_that_leaves_does_not_disturb_the_rest() -> None:
    flushes = Flushes()
    group = Group(flushes.flush, max_items=5)
    (first,) = adding(group, 1)
    await flushes.begun.wait()
    leaving, staying = adding(group, 2, 3)
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0)
    flushes.go.set()
    assert await first == 2
    assert await staying == 6
    assert flushes.groups == [[1], [3]]


async def test_a_flush_whose_callers_have_all_left_holds_up_no_later_one() -> None:
    flushes = Flushes()
    flushes.go.set()
    group = Group(flushes.flush, max_items=1)
    leaving = [asyncio.ensure_future(group.add(item)) for item in (1, 2)]
    await asyncio.sleep(0)
    for task in leaving:
        task.cancel()
    assert await group.add(3) == 6
    assert flushes.groups == [[3]]

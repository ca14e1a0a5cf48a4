from __future__ import annotations

import asyncio
import gc
import re
from pathlib import Path

import pytest

from artstore.tasks import TICK_S, Tasks, spawn, until_tick, wait_or_timeout

ROOT = Path(__file__).resolve().parents[2]


async def test_a_loop_that_fails_is_begun_again() -> None:
    tries = 0
    held = asyncio.Event()

    async def work() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise ConnectionError("not yet")
        held.set()
        await asyncio.Event().wait()

    async with Tasks.open() as tasks:
        tasks.forever("loop", work, pause_s=0.001)
        async with asyncio.timeout(120):
            await held.wait()
    assert tries == 3


async def test_a_loop_without_a_pause_does_not_spin_while_it_fails() -> None:
    tries = 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        raise ConnectionError("away")

    async with Tasks.open() as tasks:
        tasks.forever("loop", work, pause_s=0.0)
        await asyncio.sleep(0.3)
    assert 1 <= tries <= 4


async def test_closing_waits_for_a_task_that_lets_one_cancellation_pass() -> None:
    """As redis-py does while it reconnects."""
    swallowed = ended = False

    async def stubborn() -> None:
        nonlocal swallowed, ended
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed = True
        try:
            await asyncio.Event().wait()
        finally:
            ended = True

    async with Tasks.open() as tasks:
        tasks.start("stubborn", stubborn())
        await asyncio.sleep(0)
    assert swallowed
    assert ended


async def test_a_task_begun_once_may_fail_without_taking_others_along() -> None:
    async def failing() -> None:
        raise ValueError("its own affair")

    async with Tasks.open() as tasks:
        done = tasks.start("failing", failing())
        other = tasks.start("other", asyncio.sleep(60, None))
        await done
        assert not other.done()


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize("error", [asyncio.CancelledError, Unprintable, TimeoutError, RuntimeError, RecursionError])
async def test_no_exception_of_a_round_ends_a_periodic_task(error: type[BaseException]) -> None:
    """A library may let a cancelled future of its own out: that does not cancel this task."""
    rounds = 0
    went_on = asyncio.Event()

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        if rounds < 3:
            raise error
        went_on.set()

    async with Tasks.open() as tasks:
        task = tasks.every("periodic", 0.001, work)
        async with asyncio.timeout(120):
            await went_on.wait()
    assert task.cancelled()


async def test_an_outage_is_one_line_and_its_end_another(capsys: pytest.CaptureFixture[str]) -> None:
    rounds = 0
    healed = asyncio.Event()

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        if rounds < 4:
            raise ConnectionError("away")
        if rounds > 4:
            healed.set()

    async with Tasks.open() as tasks:
        tasks.every("task", 0.001, work)
        async with asyncio.timeout(10):
            await healed.wait()
    said = [line for line in capsys.readouterr().out.splitlines() if "task round failed" in line]
    assert len([line for line in said if "warning" in line]) == 1
    assert len([line for line in said if "task round failed: over" in line]) == 1


async def test_a_task_that_fails_after_its_waiter_has_left_is_not_reported() -> None:
    unretrieved: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unretrieved.append(context))

    async def fail() -> None:
        raise ConnectionError

    task = spawn("fails", fail())
    await asyncio.wait({task})
    del task
    gc.collect()
    await asyncio.sleep(0)
    assert unretrieved == []


def test_every_task_of_every_module_is_made_where_its_exception_is_retrieved() -> None:
    """A TaskGroup retrieves those of its own tasks."""
    folders = [ROOT / "shared" / "artstore", *(path for path in ROOT.glob("*/app") if path.is_dir())]
    made = {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in folder.rglob("*.py")
        if "testing" not in path.parts and re.search(r"asyncio\.(create_task|ensure_future)", path.read_text())
    }
    assert made == {"shared/artstore/tasks.py"}


async def test_a_wait_ends_with_the_event_or_with_the_timeout() -> None:
    event = asyncio.Event()
    assert await wait_or_timeout(event, 0.01) is False
    event.set()
    assert await wait_or_timeout(event, 120) is True
    assert event.is_set()


@pytest.mark.parametrize("seconds", [TICK_S, 0.9, 1.0, 1.1, 30.0])
async def test_pauses_that_begin_at_different_times_end_at_the_same_ticks(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_s = set()
    for now_s in (1000.0, 1000.003, 1000.11, 1000.2):
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda now_s=now_s: now_s)
        pause_s = until_tick(seconds)
        assert seconds - TICK_S <= pause_s <= seconds + 0.02
        ends_s.add(round((now_s + pause_s) / TICK_S % 1, 6))
    monkeypatch.undo()
    assert len(ends_s) == 1


async def test_a_timer_that_fires_early_is_not_set_for_the_same_tick_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tick_s = asyncio.get_running_loop().time() + until_tick(TICK_S)
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: tick_s - 0.01)
    again_s = until_tick(TICK_S)
    monkeypatch.undo()
    assert again_s > TICK_S / 2


async def test_a_pause_shorter_than_a_tick_is_kept() -> None:
    assert until_tick(TICK_S / 2) == TICK_S / 2

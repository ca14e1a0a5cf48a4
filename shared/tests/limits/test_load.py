from __future__ import annotations

import asyncio
import time

from artstore.limits.load import MIN_FACTOR, Load
from artstore.metrics import new_registry
from artstore.tasks import TICK_S


def load() -> Load:
    return Load(0.5, 100, new_registry())


def test_at_ease_nothing_is_tightened() -> None:
    one = load()
    for _ in range(20):
        one.observe(0.1)
    assert one.factor == 1.0


def test_a_single_hiccup_is_forgiven() -> None:
    one = load()
    one.observe(1.0)
    assert one.factor == 1.0


def test_a_late_loop_tightens_step_by_step_to_the_least_and_recovers() -> None:
    one = load()
    seen = []
    for _ in range(20):
        one.observe(2.0)
        seen.append(one.factor)
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == MIN_FACTOR
    for _ in range(40):
        one.observe(0.0)
    assert one.factor == 1.0


def test_too_many_requests_under_way_tighten_too() -> None:
    one = load()
    one.in_flight = 101
    one.observe(0.0)
    assert one.factor < 1.0
    one.in_flight = 3
    for _ in range(10):
        one.observe(0.0)
    assert one.factor == 1.0


async def test_a_loop_that_is_held_up_is_noticed_and_forgiven() -> None:
    one = Load(0.1, 100, new_registry())
    watching = asyncio.create_task(one.watch())
    for _ in range(6):
        await asyncio.sleep(TICK_S / 2)
        time.sleep(2 * TICK_S)
    assert one.factor < 1.0
    async with asyncio.timeout(120):
        while one.factor < 1.0:
            await asyncio.sleep(TICK_S)
    watching.cancel()

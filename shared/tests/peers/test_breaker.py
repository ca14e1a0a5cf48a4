from __future__ import annotations

import asyncio

import pytest

from artstore.errors import RETRY_AFTER_S, Unavailable
from artstore.metrics import new_registry
from artstore.peers.breaker import Breaker, Breakers


class Failed(Exception):
    """A failure that counts."""


class Refused(Exception):
    """An error that the other side answered, so the other side is available."""


def breaker(*, limit: int = 3, open_s: float = 60) -> Breaker:
    return Breakers(new_registry(), limit=limit, open_s=open_s).to("edge", (Failed,))


async def fail(edge: Breaker, error: type[BaseException] = Failed) -> None:
    with pytest.raises(error):
        async with edge.guard():
            raise error


async def half_open(edge: Breaker) -> None:
    while edge.state_number != 1:
        await asyncio.sleep(0.001)


async def test_it_opens_after_the_limit_and_then_refuses_without_trying() -> None:
    edge = breaker()
    for _ in range(3):
        assert edge.state_number == 0
        await fail(edge)
    tried = False
    with pytest.raises(Unavailable) as caught:
        async with edge.guard():
            tried = True
    assert not tried
    assert 0 < (caught.value.retry_after_s or 0) <= RETRY_AFTER_S
    assert edge.state_number == 2


async def test_an_answer_between_failures_begins_the_count_anew() -> None:
    edge = breaker()
    for _ in range(5):
        await fail(edge)
        await fail(edge)
        await fail(edge, Refused)
    assert edge.closed


async def test_a_caller_that_leaves_says_nothing_of_the_other_side() -> None:
    edge = breaker(limit=1)
    await fail(edge, asyncio.CancelledError)
    assert edge.closed


async def test_half_open_lets_one_probe_through_and_its_success_closes() -> None:
    edge = breaker(limit=1, open_s=0.01)
    await fail(edge)
    await half_open(edge)
    async with edge.guard():
        with pytest.raises(Unavailable):
            async with edge.guard():
                pass
    assert edge.closed
    async with edge.guard(), edge.guard():
        assert edge.closed


async def test_a_probe_that_fails_lets_another_one_try_later() -> None:
    edge = breaker(limit=1, open_s=0.01)
    await fail(edge)
    await half_open(edge)
    await fail(edge)
    assert not edge.closed
    await half_open(edge)
    async with edge.guard():
        pass
    assert edge.closed


async def test_a_probe_whose_caller_leaves_frees_its_place() -> None:
    edge = breaker(limit=1, open_s=0.01)
    await fail(edge)
    await half_open(edge)
    await fail(edge, asyncio.CancelledError)
    async with edge.guard():
        pass
    assert edge.closed


async def test_a_successful_probe_closes_the_breaker() -> None:
    edge = breaker(limit=1)
    await fail(edge)
    edge.heal()
    async with edge.guard():
        assert edge.closed


async def test_the_state_of_each_edge_is_a_metric() -> None:
    registry = new_registry()
    breakers = Breakers(registry, limit=1, open_s=60)
    await fail(breakers.to("redis", (Failed,)))
    assert breakers.to("redis", (Failed,)) is breakers.to("redis", (Failed,))
    breakers.to("se-01", (Failed,))
    assert registry.get_sample_value("circuit_breaker_state", {"edge": "redis"}) == 2
    assert registry.get_sample_value("circuit_breaker_state", {"edge": "se-01"}) == 0

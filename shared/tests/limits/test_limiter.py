"""Several limiters on one real Valkey, and on none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from artstore.clock import Clock
from artstore.limits.gcra import Quota
from artstore.limits.limiter import Limiter
from artstore.limits.load import Load
from artstore.testing.services import ValkeyServer, free_port

SLOW = Quota("account", 0.6, 150)
"""One more in a hundred seconds: while a test runs, the burst is all there is."""
Make = Callable[[], tuple[Limiter, CollectorRegistry, Load]]


@pytest.fixture
async def redis(valkey: ValkeyServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(valkey.url(10), decode_responses=True) as client:
        await client.flushdb()
        yield client


@pytest.fixture
def new_limiter(redis: Redis) -> Make:
    def make() -> tuple[Limiter, CollectorRegistry, Load]:
        registry = CollectorRegistry()
        load = Load(0.5, 100, registry)
        limiter = Limiter(Clock(), load, registry)
        limiter.connect(redis)
        return limiter, registry, load

    return make


async def let_through(limiter: Limiter, quota: Quota, times: int, key: str = "one") -> int:
    return sum([(await limiter.take(key, quota)).allowed for _ in range(times)])


async def test_one_after_another_exactly_the_burst_passes(new_limiter: Make) -> None:
    limiter, _, _ = new_limiter()
    assert await let_through(limiter, SLOW, 200) == 150


async def test_all_at_once_exactly_the_burst_passes(new_limiter: Make) -> None:
    limiter, _, _ = new_limiter()
    decisions = await asyncio.gather(*(limiter.take("one", SLOW) for _ in range(400)))
    assert sum(decision.allowed for decision in decisions) == 150


async def test_several_instances_share_one_limit(new_limiter: Make) -> None:
    limiters = [new_limiter()[0] for _ in range(3)]
    passed = 0
    for _ in range(100):
        for limiter in limiters:
            passed += (await limiter.take("one", SLOW)).allowed
    assert passed == 150


async def test_callers_do_not_share(new_limiter: Make) -> None:
    limiter, _, _ = new_limiter()
    assert await let_through(limiter, SLOW, 200, "one") == 150
    assert await let_through(limiter, SLOW, 200, "two") == 150


async def test_a_busy_caller_far_from_the_limit_costs_few_trips(new_limiter: Make) -> None:
    limiter, registry, _ = new_limiter()
    quota = Quota("account", 600_000, 900_000)
    assert await let_through(limiter, quota, 20_000) == 20_000
    labels = {"by": "redis", "result": "let_through"}
    assert (registry.get_sample_value("rate_limit_decisions_total", labels) or 0) < 100


async def test_headers_count_down_and_tell_when_to_come_back(new_limiter: Make) -> None:
    limiter, _, _ = new_limiter()
    quota = Quota("account", 6, 3)
    told = [dict((await limiter.take("one", quota)).headers()) for _ in range(3)]
    assert [told[place][b"ratelimit"].split(b";")[1] for place in range(3)] == [b"r=2", b"r=1", b"r=0"]
    assert told[0][b"ratelimit-policy"] == b'"account";q=6;w=60;artstore-burst=3'
    refused = await limiter.take("one", quota)
    assert not refused.allowed
    assert refused.retry_after_s == 10


async def test_retry_after_is_right_to_the_second(new_limiter: Make) -> None:
    limiter, _, _ = new_limiter()
    quota = Quota("account", 30, 1)
    assert (await limiter.take("one", quota)).allowed
    refused = await limiter.take("one", quota)
    assert refused.retry_after_s == 2
    await asyncio.sleep(1)
    assert not (await limiter.take("one", quota)).allowed
    await asyncio.sleep(1.02)
    assert (await limiter.take("one", quota)).allowed


async def test_under_load_less_passes_and_later_all_again(new_limiter: Make) -> None:
    limiter, _, load = new_limiter()
    load.factor = 0.1
    assert await let_through(limiter, SLOW, 50) == 15
    load.factor = 1.0
    assert await let_through(limiter, SLOW, 50) == 0  # what was spent dearly is spent: the level falls with time alone


async def test_without_redis_it_goes_on_locally_and_counts_it() -> None:
    registry = CollectorRegistry()
    limiter = Limiter(Clock(), Load(0.5, 100, registry), registry)
    async with Redis.from_url(f"redis://127.0.0.1:{free_port()}/0") as away:
        limiter.connect(away)
        assert await let_through(limiter, SLOW, 200) == 150
    labels = {"by": "local", "result": "refused"}
    assert registry.get_sample_value("rate_limit_decisions_total", labels) == 50


async def test_a_redis_that_does_not_answer_delays_no_request() -> None:
    async def say_nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)
        writer.close()

    registry = CollectorRegistry()
    limiter = Limiter(Clock(), Load(0.5, 100, registry), registry)
    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Redis.from_url(f"redis://127.0.0.1:{port}/0") as silent:
        limiter.connect(silent)
        async with asyncio.timeout(120):
            assert await let_through(limiter, SLOW, 200) == 150
    server.close()


async def test_when_redis_is_back_the_shared_limit_is_too(new_limiter: Make, redis: Redis) -> None:
    registry = CollectorRegistry()
    limiter = Limiter(Clock(), Load(0.5, 100, registry), registry)
    assert await let_through(limiter, SLOW, 10) == 10
    limiter.connect(redis)
    other, _, _ = new_limiter()
    assert await let_through(other, SLOW, 200) == 150
    assert await let_through(limiter, SLOW, 10) == 0

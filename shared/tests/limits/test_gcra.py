"""The decision, in Python and in Lua on a real Valkey: they agree, and both keep the quota to the request and the second."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from artstore.limits.gcra import REDIS_SCRIPT, Decision, Quota, grant
from artstore.testing.services import ValkeyServer

ACCOUNT = Quota("account", 100, 150)


@pytest.fixture
async def redis(valkey: ValkeyServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(valkey.url(9), decode_responses=True) as client:
        await client.flushdb()
        yield client


def sent(quota: Quota, times_s: list[float], factor: float = 1.0) -> int:
    """How many requests at these moments are let through."""
    level_s = at_s = 0.0
    passed = 0
    for moment_s in times_s:
        level_s, at_s = max(0.0, level_s - (moment_s - at_s)), moment_s
        granted, level_s = grant(quota, factor, level_s, 1, 1)
        passed += granted
    return passed


def test_a_burst_is_let_through_and_not_one_more() -> None:
    assert sent(ACCOUNT, [0.0] * 400) == 150


def test_after_the_burst_the_rate_holds() -> None:
    burst, minute = [0.0] * 200, [second / 10 for second in range(1, 601)]
    assert sent(ACCOUNT, burst + minute) == 150 + 100


def test_requests_within_the_rate_are_never_refused() -> None:
    assert sent(ACCOUNT, [0.6 * number for number in range(1000)]) == 1000


def test_tightened_limits_let_through_less() -> None:
    assert sent(ACCOUNT, [0.0] * 400, factor=0.1) == 15


@given(st.floats(0, 90), st.sampled_from([0.1, 0.5, 1.0]))
def test_retry_after_is_the_first_second_in_which_a_request_passes(level_s: float, factor: float) -> None:
    granted, level_s = grant(ACCOUNT, factor, level_s, 1, 1)
    if granted:
        return
    wait_s = Decision(False, ACCOUNT, factor, level_s).retry_after_s
    assert grant(ACCOUNT, factor, max(0.0, level_s - wait_s), 1, 1)[0] == 1
    assert wait_s == 1 or grant(ACCOUNT, factor, max(0.0, level_s - wait_s + 1), 1, 1)[0] == 0


def test_remaining_says_how_many_more_pass_at_once() -> None:
    level_s = 0.0
    for left in range(149, -1, -1):
        granted, level_s = grant(ACCOUNT, 1, level_s, 1, 1)
        assert granted == 1
        assert Decision(True, ACCOUNT, 1, level_s).remaining == left


def test_far_from_the_limit_more_is_granted_and_near_it_not() -> None:
    assert grant(ACCOUNT, 1, 0.0, 1, 64)[0] == 150 // 16
    assert grant(ACCOUNT, 1, 140 * 0.6, 1, 64)[0] == 1
    assert grant(ACCOUNT, 1, 140 * 0.6, 20, 64)[0] == 10


def test_an_exceeded_quota_with_a_penalty_refuses_for_that_long_and_no_longer() -> None:
    quota = Quota("failures", 60, 3, penalty_s=30)
    level_s = 0.0
    for _ in range(3):
        granted, level_s = grant(quota, 1, level_s, 1, 1)
        assert granted == 1
    granted, level_s = grant(quota, 1, level_s, 1, 1)
    assert granted == 0
    assert Decision(False, quota, 1, level_s).retry_after_s == 30
    assert grant(quota, 1, level_s, 1, 1) == (0, level_s)  # going on does not make it longer
    assert grant(quota, 1, level_s - 29, 1, 1)[0] == 0
    assert grant(quota, 1, level_s - 30, 1, 1)[0] == 1


async def test_redis_decides_as_python_does(redis: Redis) -> None:
    script = redis.register_script(REDIS_SCRIPT)
    quotas = [Quota("a", 1, 40), Quota("b", 0.5, 7, penalty_s=90)]  # slow ones: the clock does not matter here
    levels = [0.0, 0.0]
    for need, want in [(1, 1), (1, 64), (3, 3), (20, 1), (2, 100), (30, 30), (1, 1), (1, 1)]:
        arguments = [
            number
            for quota in quotas
            for number in (quota.cost_s * 1e6, quota.tolerance_s * 1e6, quota.penalty_s * 1e6, need, want, 0)
        ]
        answer = await script(keys=["a", "b"], args=arguments)
        for index, quota in enumerate(quotas):
            granted, levels[index] = grant(quota, 1, levels[index], need, want)
            assert answer[2 * index] == granted
            assert answer[2 * index + 1] / 1e6 == pytest.approx(levels[index], abs=5)


async def test_what_is_given_back_can_be_taken_again(redis: Redis) -> None:
    script = redis.register_script(REDIS_SCRIPT)
    cost, tolerance = 60e6, 600e6
    assert (await script(keys=["c"], args=[cost, tolerance, 0, 10, 10, 0]))[0] == 10
    assert (await script(keys=["c"], args=[cost, tolerance, 0, 1, 1, 0]))[0] == 0
    assert (await script(keys=["c"], args=[cost, tolerance, 0, 4, 4, 4 * cost]))[0] == 4
    assert (await script(keys=["c"], args=[cost, tolerance, 0, 1, 1, 0]))[0] == 0
    assert 0 < await redis.pttl("c") <= 600_001

from __future__ import annotations

import pytest

from artstore.http.body import RateMeter

GRACE_S = 30.0


def test_a_sender_below_the_minimum_rate_is_found_after_the_grace() -> None:
    meter = RateMeter(1000, GRACE_S)
    kept = [meter.keeps(1, 500) for _ in range(120)]
    assert kept.index(False) == 60


def test_a_fast_start_does_not_excuse_dripping_later() -> None:
    meter = RateMeter(1000, GRACE_S)
    assert meter.keeps(1, 10**9)
    kept = [meter.keeps(1, 0) for _ in range(60)]
    assert kept.index(False) == GRACE_S


def test_spare_bytes_excuse_what_buffers_may_hold_and_no_more() -> None:
    meter = RateMeter(1000, GRACE_S, spare_bytes=50_000)
    assert meter.keeps(1, 10**9)
    kept = [meter.keeps(1, 0) for _ in range(120)]
    assert kept.index(False) == GRACE_S + 50


@pytest.mark.parametrize("every_s", [0.001, 0.25, 1, 10, 29])
def test_the_minimum_rate_is_enough_in_any_rhythm(every_s: float) -> None:
    meter = RateMeter(1000, GRACE_S)
    assert all(meter.keeps(every_s, int(1001 * every_s)) for _ in range(2000))


def test_the_first_segment_after_a_long_pause_is_not_measured_alone() -> None:
    meter = RateMeter(1000, GRACE_S)
    for _ in range(50):
        assert meter.keeps(29, 1448)
        assert meter.keeps(0, 32_000 - 1448)


def test_without_a_minimum_rate_nothing_is_too_slow() -> None:
    assert RateMeter(0, GRACE_S).keeps(10**6, 0)

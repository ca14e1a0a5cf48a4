from __future__ import annotations

import pytest

from artstore.errors import TooSlow
from artstore.receiving import RATE_WINDOW_S, Pace


def test_only_a_whole_window_of_waiting_counts() -> None:
    pace = Pace(1000)
    pace.note(RATE_WINDOW_S - 1, 1)
    with pytest.raises(TooSlow):
        pace.note(1, 1)


def test_a_fast_start_does_not_excuse_dripping_later() -> None:
    pace = Pace(1000)
    pace.note(RATE_WINDOW_S, 10**9)
    for _ in range(int(RATE_WINDOW_S) - 1):
        pace.note(1, 10)
    with pytest.raises(TooSlow):
        pace.note(1, 10)


def test_exactly_the_minimum_rate_is_enough() -> None:
    pace = Pace(1000)
    for _ in range(1000):
        pace.note(1, 1000)

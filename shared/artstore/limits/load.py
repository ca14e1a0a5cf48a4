"""The load of this process as a factor on all limits: 1 without load, down to MIN_FACTOR under load."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, Gauge

from artstore.tasks import TICK_S, until_tick

SMOOTHING = 0.3
"""Weight of the newest lag."""
TIGHTEN, LOOSEN = 0.7, 0.05
"""Per tick: down by 30 %, up by 0.05. The factor falls within a second and recovers within about five."""
MIN_FACTOR = 0.1
MAX_IN_FLIGHT = 1000
"""Limits tighten while more requests than this are under way: more than one process answers in a second."""


class Load:
    """The event loop's lag and the requests in progress, compared with their limits."""

    def __init__(self, max_lag_s: float, max_in_flight: int, registry: CollectorRegistry) -> None:
        self._max_lag_s, self._max_in_flight = max_lag_s, max_in_flight
        self.in_flight = 0
        self.lag_s = 0.0
        self.factor = 1.0
        gauge = Gauge("rate_limit_factor", "Factor on all rate limits; below 1 under load", registry=registry)
        gauge.set_function(lambda: self.factor)
        lag = Gauge("event_loop_lag_seconds", "Smoothed lag of the event loop", registry=registry)
        lag.set_function(lambda: self.lag_s)

    def observe(self, lag_s: float) -> None:
        """Updates the factor after one tick with this lag."""
        self.lag_s += SMOOTHING * (lag_s - self.lag_s)
        if self.lag_s > self._max_lag_s or self.in_flight > self._max_in_flight:
            self.factor = max(MIN_FACTOR, self.factor * TIGHTEN)
        else:
            self.factor = min(1.0, self.factor + LOOSEN)

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before_s = loop.time()
            pause_s = until_tick(TICK_S)
            await asyncio.sleep(pause_s)
            self.observe(max(0.0, loop.time() - before_s - pause_s))

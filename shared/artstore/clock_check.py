"""Health check: compares this process's clock with PostgreSQL's, which decides about leases and the liveness
of elements.

A service with a wrong clock rejects every token; it reports not ready so that callers do not search for the
fault themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime

from prometheus_client import Gauge
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.auth.tokens import LEEWAY_S
from artstore.errors import Unavailable
from artstore.runtime import Runtime

CHECK_EVERY_S = 10.0
QUERY_TIMEOUT_S = 1.5
CHECK_TIMEOUT_S = 10.0
_NOW = text("SELECT clock_timestamp()")


class ClockCheck:
    """The health check `clock`."""

    def __init__(self, runtime: Runtime, connect: Callable[..., AbstractAsyncContextManager[AsyncConnection]]) -> None:
        """`connect` is `Database.autocommit`."""
        self._clock, self._connect = runtime.clock, connect
        self._ahead_s = 0.0
        gauge = Gauge(
            "clock_ahead_seconds",
            "Seconds that this clock is ahead of PostgreSQL's, at least",
            registry=runtime.registry,
        )
        gauge.set_function(lambda: self._ahead_s)
        runtime.health.add("clock", self.check, every_s=CHECK_EVERY_S, timeout_s=CHECK_TIMEOUT_S)

    async def check(self) -> None:
        """Raises if the clocks differ by more than LEEWAY_S. While PostgreSQL is unavailable, the last known
        difference counts."""
        try:
            async with self._connect(timeout_s=QUERY_TIMEOUT_S) as connection:
                before = self._clock.now()
                theirs = (await connection.execute(_NOW)).scalar_one()
                self._ahead_s = ahead_s(before, theirs, self._clock.now())
        except (Unavailable, SQLAlchemyError):
            pass
        if abs(self._ahead_s) > LEEWAY_S:
            raise ConnectionError(
                f"this clock differs from PostgreSQL's by {self._ahead_s:+.0f} s, so tokens are rejected"
            )


def ahead_s(before: datetime, theirs: datetime, after: datetime) -> float:
    """The minimum by which this clock is ahead of the other one (negative: behind), given that the other one
    showed `theirs` at some moment between `before` and `after` of this one."""
    if before > theirs:
        return (before - theirs).total_seconds()
    return min(0.0, (after - theirs).total_seconds())

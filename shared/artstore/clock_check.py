"""Whether the clock here agrees with PostgreSQL's, by which leases end and elements count as away.

Who is wrong about the time refuses every token, and its callers would look for the fault at themselves: so it is not ready.
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
PATIENCE_S = 1.5
CHECK_TIMEOUT_S = 10.0
_NOW = text("SELECT clock_timestamp()")


class ClockCheck:
    """The health check `clock`."""

    def __init__(self, runtime: Runtime, connect: Callable[..., AbstractAsyncContextManager[AsyncConnection]]) -> None:
        """`connect` is `Database.alone`."""
        self._clock, self._connect = runtime.clock, connect
        self._ahead_s = 0.0
        gauge = Gauge("clock_ahead_seconds", "Of PostgreSQL's clock, at least", registry=runtime.registry)
        gauge.set_function(lambda: self._ahead_s)
        runtime.health.add("clock", self.check, every_s=CHECK_EVERY_S, timeout_s=CHECK_TIMEOUT_S)

    async def check(self) -> None:
        """While PostgreSQL is away or refuses, the last known difference holds."""
        try:
            async with self._connect(patience_s=PATIENCE_S) as connection:
                before = self._clock.now()
                theirs = (await connection.execute(_NOW)).scalar_one()
                self._ahead_s = ahead_s(before, theirs, self._clock.now())
        except (Unavailable, SQLAlchemyError):
            pass
        if abs(self._ahead_s) > LEEWAY_S:
            raise ConnectionError(f"the clock here is {self._ahead_s:+.0f} s off PostgreSQL's, so tokens are refused")


def ahead_s(before: datetime, theirs: datetime, after: datetime) -> float:
    """How far we are ahead for certain, below 0 behind: somewhere between `before` and `after` it was `theirs` there."""
    if before > theirs:
        return (before - theirs).total_seconds()
    return min(0.0, (after - theirs).total_seconds())

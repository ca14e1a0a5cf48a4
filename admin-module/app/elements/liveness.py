"""Marks elements as away that have not reported for too long.

After a start of this admin or an outage of PostgreSQL no report could be recorded, so every element gets the
whole time again.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from artstore.clock import Clock
from artstore.database import Database
from artstore.errors import Fenced, UnknownRoot
from artstore.logs import get_logger

from .registry import find_status, mark_away
from .reports import refused_now

log = get_logger("admin.liveness")


class Liveness:
    """`check` is a periodic task of every admin; `changed` is called when an element has become away."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        after_s: float,
        changed: Callable[[], None],
        registry: CollectorRegistry,
    ) -> None:
        self._database, self._clock, self._after_s, self._changed = database, clock, after_s, changed
        self._refused = Gauge(
            "element_roots_refused", "Elements whose root is being refused", ["code"], registry=registry
        )
        self._away = Gauge(
            "element_away",
            "1 while the element does not report, or reports that it cannot serve",
            ["storage_element_id"],
            registry=registry,
        )
        self._listening_since_s = clock.monotonic_s()

    async def check(self) -> None:
        """Raises Unavailable."""
        recorded = False
        try:
            async with self._database.begin() as conn:
                listened_long_enough = self._clock.monotonic_s() - self._listening_since_s >= self._after_s
                silent = await mark_away(conn, self._after_s) if listened_long_enough else []
                refused = await refused_now(conn)
                status = await find_status(conn)
            recorded = True
        finally:
            if not recorded:
                self._listening_since_s = self._clock.monotonic_s()
        for error in (UnknownRoot, Fenced):
            self._refused.labels(error.code).set(sum(code == error.code for code in refused.values()))
        self._away.clear()  # of elements that were removed
        for element_id, known in status.items():
            self._away.labels(element_id).set(known == "away")
        if silent:
            log.warning("elements away", element_ids=silent)
            self._changed()

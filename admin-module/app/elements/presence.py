"""Who has gone silent. Silence counts only while it could have been broken.

After a start of this admin, or an outage of PostgreSQL, every element looks silent, though nobody was there to hear it: each then
has the whole time again before it counts as away.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from artstore.clock import Clock
from artstore.database import Database
from artstore.errors import Fenced, UnknownRoot
from artstore.logs import get_logger

from .registry import mark_away
from .reports import refused_now

log = get_logger("admin.presence")


class Presence:
    """`look` is a periodic task of every admin; `changed` is called when somebody is away who was not."""

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
            "element_roots_refused", "Elements whose root is refused at the moment", ["code"], registry=registry
        )
        self._listening_since_s = clock.monotonic_s()

    async def look(self) -> None:
        """Raises Unavailable."""
        heard = False
        try:
            async with self._database.begin() as conn:
                whole = self._clock.monotonic_s() - self._listening_since_s >= self._after_s
                gone = await mark_away(conn, self._after_s) if whole else []
                refused = await refused_now(conn)
            heard = True
        finally:
            if not heard:
                self._listening_since_s = self._clock.monotonic_s()
        for error in (UnknownRoot, Fenced):
            self._refused.labels(error.code).set(sum(code == error.code for code in refused.values()))
        if gone:
            log.warning("elements away", element_ids=gone)
            self._changed()

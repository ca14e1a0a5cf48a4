"""When a client may read what it has changed already: the promise of reads after writes, as it is checked.

With Redis and PostgreSQL within reach of everybody a change or delete that was acknowledged is read by everybody. Otherwise
an older revision may be read, for the time to live of level 1 after the trouble at most.
"""

from __future__ import annotations

from support.layout import POSTGRES, REDIS, kind_of

from .asking import Answer
from .history import History
from .schedule import Kind
from .weather import Weather

MEMORY_TTL_S = 5.0
"""CACHE_MEMORY_TTL_S of the run's fleet."""
CATCH_UP_S = 5.0
"""For subscriptions to stand again, and for the relay's next round."""


def excused(weather: Weather, history: History, answer: Answer) -> str | None:
    """The trouble that excuses a stale answer; None when there was none."""
    names = weather.fleet.names
    news = [f"{name}>{edge}" for name in names for edge in (POSTGRES, REDIS) if kind_of(name) in ("se", "query")]
    struck = weather.struck(
        history.acknowledged_at_s,
        answer.ended_s,
        targets=["redis", "postgres", *news, *(name for name in names if kind_of(name) == "se")],
        kinds=[Kind.PAUSE],
        aftermath_s=MEMORY_TTL_S + CATCH_UP_S,
    )
    return struck[0].kind.value if struck else None

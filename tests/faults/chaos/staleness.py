"""When a client may read what it has changed already: the promise of reads after writes (docs/decisions/0003), as it is checked.

While Redis is within reach of elements and queries, a change or delete that was acknowledged is seen by everybody, whatever
happens to PostgreSQL, admin or the ingesters, and also across a FLUSHALL. Otherwise an older revision may be read, until
level 1 has forgotten it: its time to live, counted from the end of the trouble. A query that was paused may be late too.
"""

from __future__ import annotations

from support.layout import REDIS, kind_of

from .asking import Answer
from .history import History
from .schedule import Kind
from .weather import Weather

MEMORY_TTL_S = 5.0
"""CACHE_MEMORY_TTL_S of the run's fleet."""
CATCH_UP_S = 5.0
"""For subscriptions to stand again."""
EXCUSING = frozenset(Kind) - {Kind.FLUSH}


def excused(weather: Weather, history: History, answer: Answer) -> str | None:
    """The trouble that excuses a stale answer; None when there was none."""
    news = [f"{name}>{REDIS}" for name in weather.fleet.names if kind_of(name) in ("se", "query")]
    struck = weather.struck(
        history.acknowledged_at_s,
        answer.ended_s,
        targets=["redis", answer.instance, *news],
        aftermath_s=MEMORY_TTL_S + CATCH_UP_S,
    )
    found = [one for one in struck if one.kind in EXCUSING and (one.process != answer.instance or _excuses(one.edge))]
    return found[0].kind.value if found else None


def _excuses(edge: str) -> bool:
    """True for strikes at the query itself or at the messages that it receives."""
    return edge in ("", REDIS)

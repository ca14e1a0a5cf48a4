"""Aggregates denials of callers without valid credentials: anybody can cause them, at the rate the network
carries.

A caller is an address, together with the account whose secret was wrong if that account exists, or with the
account and file of a refused link that this system has signed. Each caller costs one event per minute with a
count: the first denial is recorded immediately, the following ones at the end of the minute. Callers beyond
MAX_CALLERS share one event. Denials of authenticated accounts are not aggregated here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from artstore.audit.event import Event

WINDOW_S = 60.0
MAX_CALLERS = 60
"""Callers counted separately in one process, so all of them together cause at most twice as many events per
minute."""
OTHERS = "others"


@dataclass(slots=True)
class _Tally:
    """Denials of one caller in this window that are not recorded yet. `sample` is the first of them."""

    sample: Event | None = None
    count: int = 0


@dataclass(slots=True)
class DenialAggregator:
    """The counts of one process. Not thread-safe: call it in the event loop only."""

    _tallies: dict[str, _Tally] = field(default_factory=dict)
    _ends_s: float = 0.0

    def add(self, caller: str, event: Event, now_s: float) -> Event | None:
        """Returns the event to record immediately, or None when the denial was counted for the next `due`."""
        if not self._tallies:
            self._ends_s = now_s + WINDOW_S
        tally = self._tallies.get(caller)
        if tally is None and len(self._tallies) < MAX_CALLERS - 1:
            self._tallies[caller] = _Tally()
            return with_count(event, 1)
        tally = tally or self._tallies.setdefault(OTHERS, _Tally())
        tally.sample = tally.sample or event
        tally.count += 1
        return None

    def due(self, now_s: float) -> list[Event]:
        """One event per caller if the window has ended, else none. The caller stays known for the next
        window, where its first denial is not recorded immediately: so a persistent caller costs one event per
        window."""
        return self._take() if self._tallies and now_s >= self._ends_s else []

    def close(self) -> list[Event]:
        """Everything counted so far, for the end of the process."""
        events = self._take()
        self._tallies = {}
        return events

    def _take(self) -> list[Event]:
        active = {caller: tally for caller, tally in self._tallies.items() if tally.count}
        self._tallies = {caller: _Tally() for caller in active}
        self._ends_s += WINDOW_S
        return [_summary(caller, tally) for caller, tally in active.items()]


def with_count(event: Event, count: int) -> Event:
    """The same event with the number of denials that it represents."""
    return Event(event.action, event.user_id, event.resource, event.result, {**event.metadata, "count": count})


def _summary(caller: str, tally: _Tally) -> Event:
    if caller != OTHERS and tally.sample is not None:
        return with_count(tally.sample, tally.count)
    return Event("access:denied", "-", "-", "denied", {"address": OTHERS, "count": tally.count})

"""Denials whose caller has no valid credentials, summed up: anybody can cause them, as many as the network carries.

Each caller (an address, with the account whose secret was wrong if it is known) costs one event a minute with a count. The first
denial of a caller is recorded at once, its following ones with the end of the minute. Callers beyond MAX_CALLERS share
one event. Denials of accounts that have proved who they are never come here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from artstore.audit.event import Event

WINDOW_S = 60.0
MAX_CALLERS = 60
"""Callers counted apart in one process; so strangers cause at most twice as many events in a minute."""
OTHERS = "others"


@dataclass(slots=True)
class _Caller:
    """Denials of one caller in this window that are not recorded yet. `sample` is the first of them."""

    sample: Event | None = None
    count: int = 0


@dataclass(slots=True)
class Strangers:
    """Counts of one process. Not thread-safe: called in the event loop only."""

    _callers: dict[str, _Caller] = field(default_factory=dict)
    _ends_s: float = 0.0

    def add(self, caller: str, event: Event, now_s: float) -> Event | None:
        """The event to record at once, or None: then it is counted until `due`."""
        if not self._callers:
            self._ends_s = now_s + WINDOW_S
        known = self._callers.get(caller)
        if known is None and len(self._callers) < MAX_CALLERS - 1:
            self._callers[caller] = _Caller()
            return counted(event, 1)
        entry = known or self._callers.setdefault(OTHERS, _Caller())
        entry.sample = entry.sample or event
        entry.count += 1
        return None

    def due(self, now_s: float) -> list[Event]:
        """One event for each caller of a window that has ended. A caller that goes on is not recorded at once again, so that
        it costs one event in each window."""
        return self._take() if self._callers and now_s >= self._ends_s else []

    def close(self) -> list[Event]:
        """All that is counted, before the process ends."""
        events = self._take()
        self._callers = {}
        return events

    def _take(self) -> list[Event]:
        active = {name: caller for name, caller in self._callers.items() if caller.count}
        self._callers = {name: _Caller() for name in active}
        self._ends_s += WINDOW_S
        return [_summary(name, caller) for name, caller in active.items()]


def counted(event: Event, count: int, **more: str) -> Event:
    """The same event with the number of denials it stands for."""
    return Event(event.action, event.user_id, event.resource, event.result, {**event.metadata, **more, "count": count})


def _summary(name: str, caller: _Caller) -> Event:
    if name != OTHERS and caller.sample is not None:
        return counted(caller.sample, caller.count)
    return Event("access.denied", "-", "-", "denied", {"address": OTHERS, "count": caller.count})

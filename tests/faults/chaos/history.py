"""The states that one file may have, as its only client knows from acknowledged, refused and unanswered requests.

An unanswered change may have been made, may be made later (what is in a buffer of a paused process still comes), or never.
A change that named a revision can only be made on that revision, so it cannot be made once a later one was acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class State:
    """A revision of a file. `label` is in its metadata and says which request made its attributes."""

    revision: int
    sha256: str
    label: str


Effect = Callable[[State], State | None]
"""The state after a change; None: the file is deleted."""


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A change of unknown outcome. `if_revision` None: it can be made on any revision."""

    effect: Effect
    if_revision: int | None

    def fits(self, state: State) -> bool:
        return self.if_revision in (None, state.revision)

    def is_before(self, state: State) -> bool:
        """True if it may have been made on the way to this state."""
        return self.if_revision is not None and self.if_revision < state.revision


@dataclass(slots=True)
class History:
    """`base` is what the file may be without the pending changes, `possible` with any of them; None is its absence."""

    file_id: str
    base: set[State | None]
    acknowledged_at_s: float
    """When the last acknowledged change was answered, by the run's clock."""
    changeable: bool = True
    """True if it is on an element that lets files be changed."""
    pending: list[Pending] = field(default_factory=list)
    possible: set[State | None] = field(default_factory=set)
    seen: set[State | None] = field(default_factory=set)
    """Every state it may ever have been in: an outdated cache may still answer any of them."""
    told: list[str] = field(default_factory=list)
    """Its requests and their results, for a finding to show."""

    def __post_init__(self) -> None:
        self._conclude()

    @property
    def alive(self) -> list[State]:
        """The states that it may have if it exists, in a fixed order."""
        there = (state for state in self.possible if state is not None)
        return sorted(there, key=lambda state: (state.revision, state.label, state.sha256))

    def acknowledge(self, state: State | None, now_s: float) -> None:
        """A change was answered, and this is what the file is by it."""
        self.base, self.acknowledged_at_s = {state}, now_s
        self.pending = [one for one in self.pending if state is not None and one.fits(state)]
        self._conclude()

    def doubt(self, effect: Effect, if_revision: int | None) -> Pending:
        """A change was not answered, or with an error that does not say what became of it."""
        change = Pending(effect, if_revision)
        self.pending.append(change)
        self._conclude()
        return change

    def confirm(self, change: Pending, now_s: float) -> None:
        """A change that was in doubt was made, whenever that was: what the file may be by now may have come after it."""
        if change in self.pending:
            after = {state for state, made in self._reached() if change in made}
            since = {state for state in self.base if state is None or change.is_before(state)}
            self.pending.remove(change)
            self.base, self.acknowledged_at_s = after | since, now_s
            self._conclude()

    def rule_out(self, change: Pending) -> None:
        """A change that was in doubt will never be made."""
        if change in self.pending:
            self.pending.remove(change)
            self._conclude()

    def may_have_left(self, revision: int) -> bool:
        """True if it may be at a different revision, or deleted."""
        return any(state is None or state.revision != revision for state in self.possible)

    def exclude(self, revision: int) -> None:
        """A change was refused because this is not its revision: not any more, or not yet."""
        below = any(state is not None and state.revision < revision for state in self.possible)
        self.base = {state for state in self.possible if state is None or state.revision != revision}
        if not below:
            self.pending = [one for one in self.pending if one.if_revision != revision]
        self._conclude()

    def _conclude(self) -> None:
        self.possible = {state for state, _ in self._reached()}
        self.seen |= self.possible

    def _reached(self) -> set[tuple[State | None, frozenset[Pending]]]:
        """All that pending changes can make of the base, each made once at most, and which of them were made for it."""
        reached = {(state, frozenset[Pending]()) for state in self.base}
        frontier = list(reached)
        while frontier:
            state, made = frontier.pop()
            for change in self.pending:
                if state is not None and change not in made and change.fits(state):
                    after = (change.effect(state), made | {change})
                    if after not in reached:
                        reached.add(after)
                        frontier.append(after)
        return reached


def patched(label: str) -> Effect:
    return lambda state: State(state.revision + 1, state.sha256, label)


def replaced(sha256: str) -> Effect:
    return lambda state: State(state.revision + 1, sha256, state.label)


def deleted(_state: State) -> None:
    return None

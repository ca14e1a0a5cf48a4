"""What one file may be, as its only client knows: the model that acknowledged, refused and unanswered requests leave.

An unanswered change may have been made, may be made later (what is in a buffer of a paused process still comes), or never.
A change that named a revision can only be made on that revision, so it is void once a later one was acknowledged.
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
"""What a change makes of a state; None: there is no such file any more."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A change of unknown outcome. `if_revision` None: it can be made on any revision."""

    effect: Effect
    if_revision: int | None


@dataclass(slots=True)
class History:
    """`possible` holds every state the file may be in now; None is its absence."""

    file_id: str
    possible: set[State | None]
    acknowledged_at_s: float
    """When the last acknowledged change was answered, by the run's clock."""
    changeable: bool = True
    """Whether it lies on an element that lets files be changed."""
    pending: list[Pending] = field(default_factory=list)
    seen: set[State | None] = field(default_factory=set)
    """Every state it may ever have been in: what a cache that was not told may still say."""

    def __post_init__(self) -> None:
        self.seen |= self.possible

    @property
    def alive(self) -> list[State]:
        """What it may be if it is there, in a fixed order."""
        return sorted(
            (state for state in self.possible if state is not None), key=lambda one: (one.revision, one.label)
        )

    def acknowledge(self, state: State | None, now_s: float) -> None:
        """A change was answered, and this is what the file is by it."""
        self.possible, self.acknowledged_at_s = {state}, now_s
        if state is None:
            self.pending = []
        self.pending = [one for one in self.pending if state and one.if_revision in (None, state.revision)]
        self._close()

    def doubt(self, effect: Effect, if_revision: int | None) -> None:
        """A change was not answered, or with an error that does not say what became of it."""
        self.pending.append(Pending(effect, if_revision))
        self._close()

    def may_have_left(self, revision: int) -> bool:
        """Whether it may be at another revision, or gone."""
        return any(state is None or state.revision != revision for state in self.possible)

    def exclude(self, revision: int) -> None:
        """A change was refused because this is not its revision; revisions only grow, so it never will be again."""
        self.possible = {state for state in self.possible if state is None or state.revision != revision}
        self.pending = [one for one in self.pending if one.if_revision != revision]

    def _close(self) -> None:
        """All that the pending changes can make of what is possible, each made at most once."""
        reached = {(state, 0) for state in self.possible}
        frontier = list(reached)
        while frontier:
            state, made = frontier.pop()
            for number, change in enumerate(self.pending):
                if state is None or made >> number & 1 or change.if_revision not in (None, state.revision):
                    continue
                after = (change.effect(state), made | 1 << number)
                if after not in reached:
                    reached.add(after)
                    frontier.append(after)
        self.possible = {state for state, _ in reached}
        self.seen |= self.possible


def patched(label: str) -> Effect:
    return lambda state: State(state.revision + 1, state.sha256, label)


def replaced(sha256: str) -> Effect:
    return lambda state: State(state.revision + 1, sha256, state.label)


def deleted(_state: State) -> None:
    return None

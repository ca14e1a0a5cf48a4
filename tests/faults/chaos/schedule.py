"""The schedule of strikes, a pure function of a seed. The same seed, length and fleet give the same schedule.

Kinds are drawn like cards, so that a short run has seen every one. No two strikes hold the same process or server at a time.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass

from support.layout import edges_of, kind_of

HOUR_S = 3600.0


class Kind(enum.StrEnum):
    DELAY = "delay"
    """An edge answers late."""
    SLICE = "slice"
    """An edge passes its bytes in small pieces."""
    BLACKHOLE = "blackhole"
    """An edge passes nothing, one way or both, and says nothing."""
    RESET = "reset"
    """An edge resets what is open."""
    REFUSE = "refuse"
    """An edge resets whatever comes."""
    KILL = "kill"
    """kill -9, and a start some time later."""
    RESTART = "restart"
    """SIGTERM, and a start right after."""
    POINT = "point"
    """A process is started again so that it kills itself at a named place between two durable effects."""
    PAUSE = "pause"
    """SIGSTOP, SIGCONT some time later."""
    SKEW = "skew"
    """The clock of one process is wrong by an hour."""
    FLUSH = "flush"
    """FLUSHALL."""
    REDIS = "redis"
    """Redis stops, and comes back empty."""
    POSTGRES = "postgres"
    """PostgreSQL crashes (immediate shutdown), and comes back."""
    HANG = "hang"
    """Redis or PostgreSQL is there, takes connections and answers nothing."""


EDGES = frozenset({Kind.DELAY, Kind.SLICE, Kind.BLACKHOLE, Kind.RESET, Kind.REFUSE})
SERVERS = {
    Kind.FLUSH: ("redis",),
    Kind.REDIS: ("redis",),
    Kind.POSTGRES: ("postgres",),
    Kind.HANG: ("redis", "postgres"),
}
POINTS = {
    "admin": ("admin.commit_prepared", "admin.committed", "admin.saga_claimed", "admin.saga_undone", "admin.change_made"),
    "ingester": ("upload.transferred", "upload.committed", "batch.transferred", "batch.committed", "key.claimed",
                 "key.moved", "key.taken_over", "key.pinned", "key.answered"),
    "query": (),
    "se": ("put.intended", "put.data_renamed", "put.renamed", "put.published", "put.noted", "put.notified", "put.synced",
           "put.small.data_written", "put.small.published", "late.found", "update.intended", "update.decided", "update.swapped",
           "update.published", "update.settled", "delete.intended", "delete.attributes_removed", "delete.removed",
           "settle.recorded", "settle.noted", "wal.written", "wal.synced", "checkpoint.synced"),
}  # fmt: skip
"""By module, those that an ordinary load passes. A process that does not come to its point is started again all the same."""
MOMENTARY = frozenset({Kind.RESET, Kind.FLUSH, Kind.RESTART})
"""These have no length."""
LASTS_S = {
    **dict.fromkeys(Kind, (1.0, 6.0)),
    Kind.KILL: (0.2, 4.0),
    Kind.REDIS: (0.5, 5.0),
    Kind.POSTGRES: (0.2, 3.0),
    Kind.SKEW: (4.0, 8.0),
    Kind.POINT: (4.0, 10.0),
}
GAP_S = (0.2, 1.6)
"""From the beginning of one strike to that of the next."""
DRAWS = 6
"""Targets drawn for a strike; when each of them is struck already, there is none."""
REST_S = 4.0
"""A process that was down has this long to come back before it is struck again."""


@dataclass(frozen=True, slots=True)
class Strike:
    """`target` is a process, "process>edge", "redis" or "postgres". `how` has what the kind needs to know besides."""

    at_s: float
    kind: Kind
    target: str
    lasts_s: float
    how: str = ""

    @property
    def until_s(self) -> float:
        return self.at_s + self.lasts_s

    @property
    def process(self) -> str:
        return self.target.partition(">")[0]

    @property
    def edge(self) -> str:
        return self.target.partition(">")[2]

    def __str__(self) -> str:
        lasting = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        return f"{self.at_s:6.1f} s  {self.kind.value:<9} {self.target}{f' ({self.how})' if self.how else ''}{lasting}"


def schedule(seed: int, length_s: float, names: Sequence[str]) -> list[Strike]:
    """Strikes in the order of their beginnings; all have ended when `length_s` is over."""
    chance = random.Random(seed)
    strikes: list[Strike] = []
    deck: list[Kind] = []
    now_s = chance.uniform(*GAP_S)
    while now_s < length_s:
        if not deck:
            deck = list(Kind)
            chance.shuffle(deck)
        kind = deck.pop()
        drawn = [_strike(chance, now_s, kind, length_s, names) for _ in range(DRAWS)]
        free = [struck for struck in drawn if not any(_collide(struck, other) for other in strikes)]
        strikes += free[:1]
        now_s += chance.uniform(*GAP_S)
    return strikes


def _strike(chance: random.Random, at_s: float, kind: Kind, length_s: float, names: Sequence[str]) -> Strike:
    lasts_s = 0.0 if kind in MOMENTARY else min(chance.uniform(*LASTS_S[kind]), length_s - at_s)
    target = _target(chance, kind, names)
    return Strike(round(at_s, 2), kind, target, round(lasts_s, 2), _how(chance, kind, target))


def _target(chance: random.Random, kind: Kind, names: Sequence[str]) -> str:
    if kind in SERVERS:
        return chance.choice(SERVERS[kind])
    # by module first: four elements are not four times as likely to be struck as two admins
    modules = sorted({kind_of(name) for name in names})
    module = chance.choice([module for module in modules if kind is not Kind.POINT or POINTS[module]])
    name = chance.choice([name for name in names if kind_of(name) == module])
    return f"{name}>{chance.choice(edges_of(name))}" if kind in EDGES else name


def _how(chance: random.Random, kind: Kind, target: str) -> str:
    match kind:
        case Kind.POINT:
            return f"{chance.choice(POINTS[kind_of(target)])}:kill:{chance.choice((1, 1, 2, 5, 20))}"
        case Kind.DELAY:
            return f"{chance.choice((0.02, 0.2, 0.8, 3.0))}"
        case Kind.SLICE:
            return f"{chance.choice((1, 13, 512))}"
        case Kind.BLACKHOLE:
            return chance.choice(("up", "down", "both"))
        case Kind.SKEW:
            return f"{chance.choice((-HOUR_S, HOUR_S)):+.0f}"
        case _:
            return ""


def _collide(one: Strike, other: Strike) -> bool:
    """Edges of one process may be struck together, but not one edge twice; a process is not struck while it is down."""
    if one.process != other.process or (one.edge and other.edge and one.edge != other.edge):
        return False
    rest_s = 0.0 if one.edge and other.edge else REST_S
    return one.at_s < other.until_s + rest_s and other.at_s < one.until_s + rest_s

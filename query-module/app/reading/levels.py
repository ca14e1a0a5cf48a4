"""The four levels a lookup asks, nearest first, and how often each had the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter

from .attributes import AttributesLevel
from .catalog import CatalogLevel
from .memory import Memory
from .redis import RedisLevel
from .refill import Refill

Source = Literal["memory", "redis", "database", "attributes"]
SOURCES: tuple[Source, ...] = ("memory", "redis", "database", "attributes")


class LevelMetrics:
    """`result` is hit, miss or away; the hit rate of a level is hit / (hit + miss)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = Counter(
            "lookup_level_total", "Lookups of attributes at each cache level", ["level", "result"], registry=registry
        )
        self._hits = {level: counter.labels(level, "hit") for level in SOURCES}
        self._misses = {level: counter.labels(level, "miss") for level in SOURCES}
        self._away = {level: counter.labels(level, "away") for level in SOURCES}

    def count(self, level: Source, hit: bool) -> None:
        (self._hits if hit else self._misses)[level].inc()

    def count_away(self, level: Source) -> None:
        self._away[level].inc()


@dataclass(frozen=True, slots=True)
class Levels:
    memory: Memory
    redis: RedisLevel
    catalog: CatalogLevel
    attributes: AttributesLevel
    refill: Refill
    metrics: LevelMetrics

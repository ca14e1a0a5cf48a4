"""The metrics cost a bounded share of a process's time, however often they are requested."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from artstore.http.status import MAX_SHARE, Exposition


class Counted(Collector):
    """How often the text was made."""

    made = 0

    def collect(self) -> Iterator[Metric]:
        self.made += 1
        yield GaugeMetricFamily("made", "So far", value=self.made)


def registry_with_series(count: int) -> tuple[CollectorRegistry, Counted]:
    registry, counted = CollectorRegistry(), Counted()
    registry.register(counted)
    series = Counter("many", "Series", ["one"], registry=registry)
    for number in range(count):
        series.labels(str(number)).inc()
    return registry, counted


def test_a_flood_of_scrapes_is_answered_with_the_text_made_last() -> None:
    registry, counted = registry_with_series(20_000)  # tens of milliseconds
    shown = Exposition(registry)
    texts = {shown.current(100.0) for _ in range(3_000)}
    made = counted.made
    assert made < 300
    assert len(texts) == made
    shown.current(100.0 + 2 / MAX_SHARE)
    assert counted.made == made + 1, "values of this moment again, once the share is saved up"


def test_an_ordinary_scraper_always_gets_the_values_of_this_moment() -> None:
    registry, counted = registry_with_series(300)
    shown = Exposition(registry)
    for number in range(100):
        shown.current(100.0 + 15 * number)
    assert counted.made == 100

"""Metrics of every service. Each process has its own registry; label values come from closed sets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from artstore.errors import ArtStoreError
from artstore.logs import lines_dropped

CONTENT_TYPE = CONTENT_TYPE_LATEST

_LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


def new_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_LogLines())
    return registry


class _LogLines(Collector):
    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "log_lines_dropped", "Log lines dropped because standard error did not accept them", value=lines_dropped()
        )


def exposition(registry: CollectorRegistry) -> bytes:
    return generate_latest(registry)


class RequestMetrics:
    """Metrics of the edge. `route` is the path template, never the path; `unmatched` if no route matches."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "http_requests_total", "Requests answered", ["method", "route", "status"], registry=registry
        )
        self.duration = Histogram(
            "http_request_duration_seconds",
            "From the first byte of the request to the last byte of the response",
            ["method", "route"],
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.in_flight = 0
        Gauge("http_requests_in_flight", "Requests in progress", registry=registry).set_function(lambda: self.in_flight)
        self._bound: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def count(self, method: str, route: str, status: int, took_s: float) -> None:
        """Counts one answered request. The children are bound once: looking them up costs more than counting."""
        key = (method, route, status)
        bound = self._bound.get(key)
        if bound is None:
            children = self.requests.labels(method, route, str(status)), self.duration.labels(method, route)
            bound = self._bound[key] = children
        bound[0].inc()
        bound[1].observe(took_s)


class FileMetrics:
    """File operations and used space, under the same names in every service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.operations = Counter(
            "file_operations_total",
            "Operations on files as this service saw them",
            ["operation", "result"],
            registry=registry,
        )
        """`result` is `ok`, `cancelled` or an error code."""
        self.space_used = Gauge(
            "storage_space_used_bytes",
            "Bytes that files take on the element; only elements have a value",
            ["storage_element_id"],
            registry=registry,
        )
        """Only elements set it, so that a sum counts each file once."""

        self._bound: dict[str, _Operation] = {}

    def operation(self, name: str) -> _Operation:
        """A context manager that counts one operation by the way its block ends."""
        bound = self._bound.get(name)
        if bound is None:
            bound = self._bound[name] = _Operation(self.operations, name)
        return bound


class _Operation:
    """Has no state of one block, so all blocks of an operation share it."""

    def __init__(self, operations: Counter, name: str) -> None:
        self._operations, self._name = operations, name
        self._succeeded = operations.labels(name, "ok")

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is None:
            self._succeeded.inc()
        elif isinstance(error, ArtStoreError):
            self._operations.labels(self._name, error.code).inc()
        elif isinstance(error, asyncio.CancelledError):
            self._operations.labels(self._name, "cancelled").inc()

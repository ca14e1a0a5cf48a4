"""Metrics of the store, read at each scrape from numbers in memory, without a walk or a query."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import get_args

from prometheus_client import Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from artstore.contracts.elements import Mode
from artstore.runtime import Runtime

from ..element import Element
from ..serving import Serving
from ..store.store import Store
from ..store.unfinished import Uploads
from ..upkeep.journal import Problem
from ..upkeep.upkeep import Upkeep

FINDINGS = (
    "damaged",
    "torn_tails",
    "unreadable_frames",
    "swept_temps",
    "resolved_intents",
    "redone_files",
    "put_back",
    "unreadable",
)


class StoreCollector(Collector):
    def __init__(self, store: Store, upkeep: Upkeep) -> None:
        self._store, self._upkeep = store, upkeep

    def collect(self) -> Iterable[Metric]:
        store = self._store
        found = CounterMetricFamily("element_findings", "Problems found on disk that stopped nothing", labels=["kind"])
        for kind in FINDINGS:
            found.add_metric([kind], getattr(store.findings, kind))
        yield found
        damaged = CounterMetricFamily(
            "upkeep_findings", "Problems of files found by rebuild, verify and sweep", labels=["problem"]
        )
        for problem in get_args(Problem):
            damaged.add_metric([problem], self._upkeep.findings.counts.get(problem, 0))
        yield damaged
        yield GaugeMetricFamily(
            "element_quarantined_files",
            "Files in the quarantine; counted at the start, by each sweep and verification, and as they are moved",
            value=store.findings.quarantined_files,
        )
        yield GaugeMetricFamily(
            "element_usage_exact", "0 while files and bytes are being counted after a crash", value=store.usage.exact
        )
        yield GaugeMetricFamily(
            "element_catalog_behind",
            "1 from the detection of a catalog that went back in time or was lost until a rebuild has reconciled it",
            value=self._upkeep.generation.behind or bool(self._upkeep.generation.doubt),
        )
        yield CounterMetricFamily("wal_syncs", "Syncs of the log", value=store.wal.syncs)
        yield GaugeMetricFamily("wal_open_intents", "Operations running or unsettled", value=len(store.wal.open))
        yield GaugeMetricFamily(
            "wal_used_segments", "Segments that a recovery would read", value=store.wal.used_segments
        )
        yield GaugeMetricFamily("element_files", "Files stored", value=store.usage.files)
        yield GaugeMetricFamily(
            "element_unconfirmed_files", "Files whose saga has not been seen committed", value=len(store.unconfirmed)
        )
        yield GaugeMetricFamily(
            "element_unsettled_files",
            "Files whose catalog row may differ from the disk, without uploads of the last second",
            value=max(0, len(store.unsettled) - len(store.late)),
        )
        yield GaugeMetricFamily(
            "element_owed_files", "Files whose decided change S3 has not made", value=len(store.pending)
        )
        yield GaugeMetricFamily(
            "element_failed", "1 once the disk has failed", value=int(store.disk_health.failure is not None)
        )
        yield GaugeMetricFamily(
            "storage_in_flight_bytes", "Bytes reserved by puts and not written yet", value=store.space.in_flight_bytes
        )
        yield GaugeMetricFamily(
            "storage_available_bytes", "Bytes that puts may still take", value=store.space.available_bytes()
        )
        yield GaugeMetricFamily(
            "storage_total_bytes", "Size of the disk, or the quota", value=store.space.measure().total_bytes
        )


def show_element(element: Element, runtime: Runtime) -> None:
    modes = Gauge("element_mode", "1 for the mode of the element", ["mode"], registry=runtime.registry)
    for mode in Mode:
        modes.labels(mode.value).set_function(partial(_is_in_mode, element, mode))


def _is_in_mode(element: Element, mode: Mode) -> float:
    return float(element.mode is mode)


def show_serving(serving: Serving, runtime: Runtime) -> None:
    refused = Gauge("element_root_refused", "1 while admin refuses the root", registry=runtime.registry)
    refused.set_function(lambda: float(serving.refusal is not None))
    gone = Gauge("element_root_gone", "1 while the root is missing or not the one opened", registry=runtime.registry)
    gone.set_function(
        lambda: float(serving.presence.find_fault() is not None if serving.presence else bool(serving.waiting_for))
    )


def show_store(store: Store, upkeep: Upkeep, runtime: Runtime, element_id: str) -> None:
    runtime.registry.register(StoreCollector(store, upkeep))
    runtime.files.space_used.labels(element_id).set_function(lambda: store.usage.bytes_used)


def show_uploads(uploads: Uploads, runtime: Runtime) -> None:
    unfinished = Gauge("element_unfinished_uploads", "Resumable uploads not completed yet", registry=runtime.registry)
    unfinished.set_function(lambda: uploads.unfinished)
    staged = Gauge(
        "element_unfinished_upload_bytes", "Bytes on the disk of resumable uploads", registry=runtime.registry
    )
    staged.set_function(lambda: uploads.store.space.staged_bytes)

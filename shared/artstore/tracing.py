"""Distributed traces: W3C `traceparent` in and out, a span per operation and per protocol step, OTLP export."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from artstore.logs import get_logger

log = get_logger("artstore.tracing")

CLOSE_TIMEOUT_S = 2.0
LIBRARY_LOGGERS = ("opentelemetry.exporter", "opentelemetry.sdk")
"""They log each failed attempt; OutageExporter logs each outage instead."""

_propagator = TraceContextTextMapPropagator()


def configure_tracing(service: str, endpoint: str | None, share: float) -> TracerProvider | None:
    """Call it once at the start. Without an endpoint no spans are recorded, but the trace id is passed on.
    `share` is the sampled fraction, 0 to 1."""
    if endpoint is None:
        return None
    for library in LIBRARY_LOGGERS:
        logging.getLogger(library).setLevel(logging.CRITICAL)
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(share)),
        resource=Resource.create({"service.name": f"artstore-{service}"}),
        shutdown_on_exit=False,  # it has no timeout; close_tracing has one
    )
    exporter = OutageExporter(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return provider


def close_tracing(provider: TracerProvider | None) -> None:
    """Sends the remaining spans, for at most CLOSE_TIMEOUT_S because the collector may not respond."""
    if provider is None:
        return
    closing = threading.Thread(target=provider.shutdown, name="close-tracing", daemon=True)
    closing.start()
    closing.join(CLOSE_TIMEOUT_S)
    if closing.is_alive():
        log.warning("spans not sent at the stop: the trace collector does not respond")


class OutageExporter(SpanExporter):
    """Logs the outages of the collector instead of each failed attempt."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # the exporter's thread must continue
            result, reason = SpanExportResult.FAILURE, type(error).__name__
        else:
            reason = "no spans accepted"
        away = result is not SpanExportResult.SUCCESS
        if away and not self._away:
            log.warning("trace collector unavailable: spans are dropped", error=reason)
        elif self._away and not away:
            log.info("trace collector available again")
        self._away = away
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def tracer() -> Tracer:
    return trace.get_tracer("artstore")


@contextmanager
def span(name: str, **attributes: str | int | float | bool) -> Iterator[Span]:
    """A span in the current trace. An exception that leaves the block is recorded in it."""
    with tracer().start_as_current_span(name, attributes=attributes) as current:
        yield current


@contextmanager
def server_span(name: str, headers: Mapping[str, str]) -> Iterator[Span]:
    """The span of a request, a child of the caller's span if the request carries `traceparent`."""
    parent: Context = _propagator.extract(headers)
    with tracer().start_as_current_span(name, context=parent, kind=SpanKind.SERVER) as current:
        yield current


def trace_headers() -> dict[str, str]:
    """`traceparent` (and `tracestate`) for a call to another service; empty outside a trace."""
    headers: dict[str, str] = {}
    _propagator.inject(headers)
    return headers

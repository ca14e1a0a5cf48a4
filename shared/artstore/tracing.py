"""Distributed traces: W3C `traceparent` in and out, a span per operation and per protocol step, OTLP export.

Without an exporter there are no spans, and the trace context is two strings that are passed on.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from artstore.logs import get_logger, trace_id

log = get_logger("artstore.tracing")

CLOSE_TIMEOUT_S = 2.0
LIBRARY_LOGGERS = ("opentelemetry.exporter", "opentelemetry.sdk")
"""They log each failed attempt; OutageExporter logs each outage instead."""

MAX_TRACESTATE_CHARACTERS = 512
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_TRACEPARENT_CHARACTERS = 55
"""Length of version 00, which other versions begin with."""
_propagator = TraceContextTextMapPropagator()
_exports = False
_no_span = nullcontext()
_passed_on: ContextVar[dict[str, str] | None] = ContextVar("trace_headers", default=None)
"""Without an exporter: the caller's trace context, in the form of headers."""


def configure_tracing(service: str, endpoint: str | None, share: float) -> TracerProvider | None:
    """Call it once at the start. Without an endpoint no spans are recorded, but the trace id is passed on.
    `share` is the sampled fraction, 0 to 1."""
    global _exports
    if endpoint is None:
        return None
    _exports = True
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


def exports() -> bool:
    """True if spans are recorded and sent to a collector."""
    return _exports


def span(name: str, **attributes: str | int | float | bool) -> AbstractContextManager[None]:
    """A span in the current trace. An exception that leaves the block is recorded in it."""
    return _recorded(name, attributes) if _exports else _no_span


@contextmanager
def _recorded(name: str, attributes: Mapping[str, str | int | float | bool]) -> Iterator[None]:
    with tracer().start_as_current_span(name, attributes=attributes) as current, _logged(current):
        yield


@contextmanager
def server_span(name: str, headers: Mapping[str, str]) -> Iterator[None]:
    """The span of a request, a child of the caller's span if the request carries `traceparent`."""
    parent = _propagator.extract(headers)
    with tracer().start_as_current_span(name, context=parent, kind=SpanKind.SERVER) as current, _logged(current):
        yield


@contextmanager
def _logged(current: Span) -> Iterator[None]:
    outer = trace_id.set(format(current.get_span_context().trace_id, "032x"))
    try:
        yield
    finally:
        trace_id.reset(outer)


def name_span(name: str) -> None:
    """Renames the current span, once the request's route is known."""
    if _exports:
        trace.get_current_span().update_name(name)


def continue_trace(traceparent: str, tracestate: str, new_id: str) -> None:
    """Without an exporter: continues the caller's trace, or begins one with the id `new_id`."""
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if found is None or (found[2] and traceparent.startswith("00")):
        trace_id.set(new_id)
        _passed_on.set(None)
        return
    trace_id.set(found[1])
    headers = {"traceparent": f"00{traceparent[2:_TRACEPARENT_CHARACTERS]}"}
    if tracestate.isascii() and 0 < len(tracestate) <= MAX_TRACESTATE_CHARACTERS:
        headers["tracestate"] = tracestate
    _passed_on.set(headers)


def trace_headers() -> dict[str, str]:
    """`traceparent` (and `tracestate`) for a call to another service; empty outside a trace."""
    if not _exports:
        if passed_on := _passed_on.get():
            return passed_on
        current = trace_id.get()
        return {"traceparent": f"00-{current}-{current[16:]}-00"} if current else {}
    headers: dict[str, str] = {}
    _propagator.inject(headers)
    return headers

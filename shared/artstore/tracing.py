"""One trace through all services: W3C `traceparent` in and out, a span per operation and per protocol step, OTLP export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_propagator = TraceContextTextMapPropagator()


def configure_tracing(service: str, endpoint: str | None, share: float) -> TracerProvider | None:
    """Called once at start. Without an endpoint spans cost nothing; the trace id is passed on all the same."""
    if endpoint is None:
        return None
    sampler = ParentBased(TraceIdRatioBased(share))
    provider = TracerProvider(sampler=sampler, resource=Resource.create({"service.name": f"artstore-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")))
    trace.set_tracer_provider(provider)
    return provider


def tracer() -> Tracer:
    return trace.get_tracer("artstore")


@contextmanager
def span(name: str, **attributes: str | int | float | bool) -> Iterator[Span]:
    """A span of the current trace. An exception that leaves it is recorded on it."""
    with tracer().start_as_current_span(name, attributes=attributes) as current:
        yield current


@contextmanager
def server_span(name: str, headers: Mapping[str, str]) -> Iterator[Span]:
    """The edge's span, a child of the caller's when the request carries `traceparent`."""
    parent: Context = _propagator.extract(headers)
    with tracer().start_as_current_span(name, context=parent, kind=SpanKind.SERVER) as current:
        yield current


def trace_headers() -> dict[str, str]:
    """`traceparent` (and `tracestate`) for a call to another service; empty outside a trace."""
    headers: dict[str, str] = {}
    _propagator.inject(headers)
    return headers

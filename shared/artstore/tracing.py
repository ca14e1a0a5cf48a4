"""Distributed traces: W3C `traceparent` in and out, a span per operation and per protocol step, OTLP export.

Without an exporter there are no spans, and the trace context is two strings that are passed on. With one, a step has a
span only in a trace that is sampled: the decision falls at the first span, of a request or of background work.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanContext, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from artstore import __version__
from artstore.clock import uuid7_hex
from artstore.logs import get_logger, request_id, trace_id

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
_no_span: AbstractContextManager[Span] = nullcontext(INVALID_SPAN)
_passed_on: ContextVar[dict[str, str] | None] = ContextVar("trace_headers", default=None)
"""Outside a span: the caller's trace context, in the form of headers."""
MAX_LINKS = 32
"""From background work to the requests that caused it."""
Attributes = Mapping[str, str | int]
UNMATCHED = "unmatched"
"""The route of a request that no route matches."""
_ATTRIBUTES = {
    "http.request.method": "method",
    "http.response.status_code": "status",
    "http.request.body.size": "received_bytes",
    "http.response.body.size": "sent_bytes",
    "client.address": "address",
    "artstore.client_id": "client_id",
    "artstore.file_id": "file_id",
}
"""Attributes of a server span, and the fields of the log line that they hold. No path: it may be a secret."""


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
        resource=Resource.create({"service.name": f"artstore-{service}", "service.version": __version__}),
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


def exports() -> bool:
    """True if spans are recorded and sent to a collector."""
    return _exports


def recording() -> bool:
    """True inside a span that will be sent."""
    return _exports and trace.get_current_span().is_recording()


def span(
    name: str, attributes: Attributes | None = None, *, kind: SpanKind = SpanKind.INTERNAL
) -> AbstractContextManager[Span]:
    """A span below the current one, if that is recorded. An error that leaves the block is noted in it."""
    if not recording():
        return _no_span
    return _Entered(_tracer().start_span(name, kind=kind, attributes=attributes))


def call_span(name: str, attributes: Attributes) -> AbstractContextManager[Span]:
    """As `span`, of a call to another process."""
    return span(name, attributes, kind=SpanKind.CLIENT)


def root_span(name: str, attributes: Attributes, *, links: Iterable[SpanContext] = ()) -> AbstractContextManager[Span]:
    """The first span of a trace of its own: background work. `links` name the requests that caused it."""
    if not _exports:
        return _no_span
    linked = [Link(one) for one in links]
    return _Entered(_tracer().start_span(name, context=Context(), links=linked, attributes=attributes))


def server_span(method: str, headers: Mapping[str, str]) -> AbstractContextManager[Span]:
    """The span of a request, a child of the caller's span if the request carries `traceparent`. Only with an exporter."""
    parent = _propagator.extract(headers, context=Context())
    return _Entered(_tracer().start_span(method, context=parent, kind=SpanKind.SERVER))


def begin_span(name: str, headers: Mapping[str, str], attributes: Attributes) -> Span:
    """A span of one of several requests that the current one serves together, in the trace that `headers` carry. It is
    linked to the current span, and not entered. The caller ends it."""
    if not _exports:
        return INVALID_SPAN
    here = trace.get_current_span().get_span_context()
    parent = _propagator.extract(headers, context=Context())
    if trace.get_current_span(parent).get_span_context().trace_id == here.trace_id:
        return _tracer().start_span(name, attributes=attributes)
    return _tracer().start_span(name, context=parent, links=[Link(here)], attributes=attributes)


def entered(begun: Span) -> AbstractContextManager[Span]:
    """The block in which a span of `begin_span` is the current one, and which ends it."""
    return _Entered(begun) if _exports else _no_span


def add_span(name: str, began_ns: int, ended_ns: int) -> None:
    """A step below the current span that has ended already. Times are those of `time.time_ns`."""
    _tracer().start_span(name, start_time=began_ns).end(end_time=ended_ns)


def shared_span(contexts: Sequence[contextvars.Context]) -> AbstractContextManager[Span]:
    """The block in which callers with these contexts share one call: below the span of the first caller whose trace is
    recorded, and linked with those of the others."""
    if not _exports:
        return _no_span
    spans = [context.run(trace.get_current_span) for context in contexts]
    recorded = list({one.get_span_context().span_id: one for one in spans if one.is_recording()}.values())
    if not recorded:
        return _no_span
    first, others = recorded[0], recorded[1:]
    links = [Link(one.get_span_context()) for one in others]
    made = _tracer().start_span("shared call", trace.set_span_in_context(first), links=links)
    made.set_attribute("artstore.callers", len(contexts))
    for one in others:
        one.add_link(made.get_span_context())
    return _Entered(made)


def current_link() -> SpanContext | None:
    """For `root_span`: the current span, if it is recorded."""
    return trace.get_current_span().get_span_context() if recording() else None


class _Entered:
    """Makes a span the current one, in the log too, and ends it."""

    __slots__ = ("_span", "_token", "_trace")

    def __init__(self, begun: Span) -> None:
        self._span = begun

    def __enter__(self) -> Span:
        self._token = context_api.attach(trace.set_span_in_context(self._span))
        found = self._span.get_span_context()
        self._trace = trace_id.set(format(found.trace_id, "032x")) if found.is_valid else None
        return self._span

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if self._trace is not None:
            trace_id.reset(self._trace)
        context_api.detach(self._token)
        if error is not None and self._span.is_recording():
            note_error(self._span, getattr(error, "code", type(error).__name__), getattr(error, "status", 500))
        self._span.end()


def note_error(span: Span, code: object, status: object) -> None:
    """`code` is the error's, or its class; its text may hold data of a client. Below 500 it is not this service's failure."""
    span.set_attribute("error.type", str(code))
    if not isinstance(status, int) or (status >= 500 and code != asyncio.CancelledError.__name__):
        span.set_status(StatusCode.ERROR, str(code))


def describe_request(fields: Mapping[str, Any]) -> None:
    """Describes the server span by the fields of the request's log line, in the names of OpenTelemetry."""
    current = trace.get_current_span()
    if not current.is_recording():
        return
    method, route, status = fields["method"], fields["route"], fields["status"]
    if route == UNMATCHED:
        current.update_name(method)
    else:
        current.update_name(f"{method} {route}")
        current.set_attribute("http.route", route)
    current.set_attribute("artstore.request_id", request_id.get())
    for name, field in _ATTRIBUTES.items():
        if fields[field] is not None:
            current.set_attribute(name, fields[field])
    if fields["code"] is not None or status >= 500:
        note_error(current, fields["code"] or status, status)
    if not fields["complete"]:
        note_error(current, "incomplete", 500)


def _tracer() -> Tracer:
    return trace.get_tracer("artstore")


def begin_work(name: str) -> None:
    """Gives a round of background work ids of its own, for its log lines and its calls. Without a span."""
    new = uuid7_hex()
    request_id.set(f"{name.replace(' ', '-')}:{new}")
    continue_trace("", "", new)


@contextmanager
def long_work(name: str) -> Iterator[None]:
    """Work of minutes or hours, with ids of its own and linked to the request that started it. It is one span: its
    calls have none, because they may be millions."""
    cause, outer = current_link(), (request_id.get(), trace_id.get(), _passed_on.get())
    token = context_api.attach(Context()) if _exports else None
    begin_work(name)
    links = [Link(cause)] if cause is not None else []
    made = _tracer().start_span(name, links=links) if _exports else INVALID_SPAN
    if made.is_recording():
        continue_trace("", "", format(made.get_span_context().trace_id, "032x"))
    try:
        yield
    except BaseException as error:
        note_error(made, getattr(error, "code", type(error).__name__), getattr(error, "status", 500))
        raise
    finally:
        made.end()
        request_id.set(outer[0])
        trace_id.set(outer[1])
        _passed_on.set(outer[2])
        if token is not None:
            context_api.detach(token)


def continue_trace(traceparent: str, tracestate: str, new_id: str) -> None:
    """Without a span: continues the caller's trace, or begins one with the id `new_id`."""
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
    if _exports and trace.get_current_span().get_span_context().is_valid:
        headers: dict[str, str] = {}
        _propagator.inject(headers)
        return headers
    if passed_on := _passed_on.get():
        return passed_on
    current = trace_id.get()
    return {"traceparent": f"00-{current}-{current[16:]}-00"} if current else {}

"""Structured logs: one JSON line per event on standard error, with request id and trace id, and without
secrets."""

from __future__ import annotations

import atexit
import json
import logging
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from artstore.log_sink import LAST_LINES_TIMEOUT_S, LogSink, open_standard_error

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that the current task serves; empty outside a request."""
trace_id: ContextVar[str] = ContextVar("trace_id", default="")
"""The id of the current trace, 32 hexadecimal digits; empty outside a trace."""
joint_requests: ContextVar[tuple[str, ...]] = ContextVar("joint_requests", default=())
"""The ids of all requests that share the current call or transaction, when there are several (groups.py)."""
JOINT_HEADER = "x-artstore-request-ids"
MAX_JOINT_CHARS = 16 << 10
"""256 ids of our own fit, beside the other headers of a call."""

SECRET_WORDS = ("secret", "password", "authorization", "token", "private")
"""The value of a field whose name contains one of these is masked."""
_SAFE = frozenset({"token_type"})
MAX_LINE_CHARACTERS = 64 << 10

_sink: LogSink | None = None
_request_line: _RequestLine | None = None
"""Writes the lines of requests as bytes; None while they take the chain of the other lines."""


def get_logger(name: str) -> FilteringBoundLogger:
    return cast(FilteringBoundLogger, structlog.get_logger(source=name))


def log_request(fields: dict[str, Any]) -> None:
    """Logs one answered request. No field may hold a path, a query string or a header: they may be secrets."""
    if joint := joint_requests.get():
        fields["request_ids"] = joint
    if _request_line is None or not _request_line.write(fields):
        structlog.get_logger().info("request", **fields)


def lines_dropped() -> int:
    """Number of log lines that the sink has dropped since the start."""
    return _sink.dropped if _sink is not None else 0


def configure_logs(service: str, level: str, log_format: str) -> None:
    """Call it once at the start. `logging` of libraries, warnings and tracebacks get the same format."""
    global _request_line
    sink = _open_sink()
    levelled = logging.getLevelName(level.upper()) <= logging.INFO
    _request_line = _RequestLine(sink, service) if log_format != "text" and levelled else None
    chain: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        _Context(service),
        _hide_secrets,
        structlog.processors.format_exc_info,
        (
            structlog.dev.ConsoleRenderer(colors=sink.isatty())
            if log_format == "text"
            else structlog.processors.JSONRenderer(serializer=_dumps)
        ),
    ]
    render = _Render(chain)
    structlog.configure(
        processors=[render],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=structlog.WriteLoggerFactory(file=cast(Any, sink)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sink)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(logging.WARNING, logging.getLevelName(level)), force=True)
    logging.raiseExceptions = False  # a line that cannot be formatted must not print a traceback
    logging.captureWarnings(True)


def _open_sink() -> LogSink:
    global _sink
    if _sink is None:
        _sink = open_standard_error(_report_dropped)
        atexit.register(_sink.close, LAST_LINES_TIMEOUT_S)
    return _sink


def _report_dropped(lines: int) -> None:
    get_logger("artstore.logs").warning("log lines dropped", lines=lines)


class _Render:
    """The processor chain as one step that always returns a line, because logging must not make an operation
    fail."""

    def __init__(self, chain: Sequence[Processor]) -> None:
        self._chain = chain

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        name = str(event.get("event", ""))[:1000]
        try:
            made: Any = event
            for step in self._chain:
                made = step(logger, method, made)
            if len(made) <= MAX_LINE_CHARACTERS:
                return cast(str, made)
            problem = f"the line had {len(made)} characters"
        except Exception as error:  # __str__ of a value may raise anything
            problem = f"the line could not be rendered: {type(error).__name__}"
        return _dumps({"event": name, "level": method, "log_problem": problem})


class _Context:
    def __init__(self, service: str) -> None:
        self.service = service

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = self.service
        if current := request_id.get():
            event.setdefault("request_id", current)
        if current := trace_id.get():
            event["trace_id"] = current
        if joint := joint_requests.get():
            event.setdefault("request_ids", joint)
        return event


class _RequestLine:
    """The line of a request, built as bytes without the chain: none of its fields can hold a secret."""

    def __init__(self, sink: LogSink, service: str) -> None:
        self._sink, self._service = sink, service

    def write(self, fields: dict[str, Any]) -> bool:
        """Returns False, and writes nothing, if a value is not valid UTF-8."""
        fields = {
            **fields,
            "event": "request",
            "level": "info",
            "timestamp": datetime.now(UTC),
            "service": self._service,
            "request_id": request_id.get(),
            "trace_id": trace_id.get(),
        }
        try:
            self._sink.write_bytes(orjson.dumps(fields, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE))
        except TypeError:
            return False
        return True


def _hide_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key in event:
        if _is_secret(key):
            event[key] = "***"
    return event


@lru_cache(maxsize=1024)
def _is_secret(key: str) -> bool:
    return key not in _SAFE and any(word in key.lower() for word in SECRET_WORDS)


def _dumps(event: Any, **_: Any) -> str:
    try:
        return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError):  # lone surrogates, integers over 64 bits
        return json.dumps({str(key): value if value is None else str(value) for key, value in event.items()})

"""Logs are events: one JSON line each on standard error, with the request's and the trace's id, and never a secret."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from typing import Any, cast

import orjson
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that this task serves; empty outside one."""

SECRET_WORDS = ("secret", "password", "authorization", "token", "private")
"""A key that holds one of these is never written out, whoever logs it."""
_SAFE = frozenset({"token_type"})


def get_logger(name: str) -> FilteringBoundLogger:
    return cast(FilteringBoundLogger, structlog.get_logger(source=name))


def configure_logs(service: str, level: str, log_format: str) -> None:
    """Called once at start. Lines of libraries that use `logging` take the same way."""
    chain: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        _Context(service),
        _hide_secrets,
        structlog.processors.format_exc_info,
    ]
    rendering = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if log_format == "text"
        else structlog.processors.JSONRenderer(serializer=_dumps)
    )
    structlog.configure(
        processors=[*chain, rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *chain],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, rendering],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(logging.WARNING, logging.getLevelName(level)), force=True)


class _Context:
    def __init__(self, service: str) -> None:
        self.service = service

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = self.service
        if current := request_id.get():
            event.setdefault("request_id", current)
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            event["trace_id"] = format(span.trace_id, "032x")
        return event


def _hide_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key in event:
        if key not in _SAFE and any(word in key.lower() for word in SECRET_WORDS):
            event[key] = "***"
    return event


def _dumps(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()

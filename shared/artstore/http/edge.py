"""The outermost ASGI middleware of every service: request id, trace, metrics, one log line per request,
problem documents.

It also reports a refused start: one log line with the reason instead of a traceback.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from artstore.clock import Clock, uuid7
from artstore.errors import PROBLEM_JSON, ArtStoreError, InternalError, StartRefused, Unavailable
from artstore.http.head import find_head_fault
from artstore.logs import get_logger, request_id
from artstore.metrics import RequestMetrics
from artstore.tracing import server_span

log = get_logger("artstore.http.edge")

REQUEST_ID_HEADER = "x-request-id"
_REQUEST_ID_NAME = REQUEST_ID_HEADER.encode()
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_QUIET = frozenset({"/health/live", "/health/ready", "/metrics"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SECURITY_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'; sandbox",
}
"""Files are not trusted: a browser that opens one must not run scripts in it. A header set by the handler
takes precedence."""
_DOCS_POLICY = (b"content-security-policy", b"frame-ancestors 'none'")
_DOCS = frozenset({"/docs", "/docs/oauth2-redirect"})


class Edge:
    """The middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, metrics: RequestMetrics, clock: Clock) -> None:
        self._app, self._metrics, self._clock = app, metrics, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _run_lifespan(self._app, scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID_HEADER, "")
        current = given if _REQUEST_ID.fullmatch(given) else str(uuid7())
        marked = request_id.set(current)
        try:
            with server_span(scope["method"], headers) as span:
                await self._answer(scope, receive, send, current, span.update_name)
        finally:
            request_id.reset(marked)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, current: str, name_span: Callable[[str], None]
    ) -> None:
        began_s = self._clock.monotonic_s()
        answer: dict[str, Any] = {"status": 0, "complete": False}

        async def marked_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer["status"] = message["status"]
                message["headers"] = _add_headers(message.get("headers", ()), scope["path"], current)
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                answer["complete"] = True
            await send(message)

        self._metrics.in_flight.inc()
        try:
            fault = find_head_fault(scope)
            if fault is None:
                await self._app(scope, receive, marked_send)
            else:
                await send_problem(marked_send, fault, current)
        except asyncio.CancelledError:  # the service is stopping and waits no longer for this request
            if not answer["status"]:
                await send_problem(marked_send, Unavailable("the service is stopping: send the request again"), current)
            raise
        except Exception as error:  # the request edge: every failure is answered
            log.error("request failed", error=repr(error), exc_info=True)
            if answer["status"]:
                raise  # the response has begun: the server must abort the connection
            await send_problem(marked_send, InternalError(), current)
        finally:
            self._metrics.in_flight.dec()
            self._record(scope, answer, self._clock.monotonic_s() - began_s, name_span)

    def _record(self, scope: Scope, answer: dict[str, Any], took_s: float, name_span: Callable[[str], None]) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        name_span(f"{method} {route}")
        self._metrics.requests.labels(method, route, str(answer["status"])).inc()
        self._metrics.duration.labels(method, route).observe(took_s)
        if route in _QUIET:
            return
        principal = scope.get("state", {}).get("principal")
        log.info(
            "request",
            method=method,
            route=route,
            status=answer["status"],
            complete=answer["complete"],
            took_ms=round(took_s * 1000, 2),
            client_id=getattr(principal, "client_id", None),
        )


async def _run_lifespan(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Starlette sends the traceback of a failed start and uvicorn logs it; a refused start logs only its
    reason instead."""
    failures: list[Message] = []

    async def hold_failures(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            failures.append(message)
        else:
            await send(message)

    try:
        await app(scope, receive, hold_failures)
    except BaseException as error:
        if isinstance(error, StartRefused):
            log.critical("start refused", reason=str(error))
            failures = [{"type": "lifespan.startup.failed", "message": ""}]
        for message in failures:
            await send(message)
        raise


def _add_headers(fields: Iterable[tuple[bytes, bytes]], path: str, current: str) -> list[tuple[bytes, bytes]]:
    whole = [*fields, _DOCS_POLICY] if path in _DOCS else [*fields]
    names = {name for name, _ in whole}
    if _REQUEST_ID_NAME not in names:
        whole.append((_REQUEST_ID_NAME, current.encode()))
    whole += [field for field in SECURITY_HEADERS.items() if field[0] not in names]
    return whole


async def send_problem(send: Send, error: ArtStoreError, request_id: str) -> None:
    """Sends a complete RFC 9457 response."""
    body = error.to_wire(request_id)
    fields = {"content-type": PROBLEM_JSON, "content-length": str(len(body)), **error.headers()}
    headers = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

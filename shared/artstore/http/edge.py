"""The hot path of every request: request id, trace, head checks, limits, access, handler, metrics, one log line.

Data routes are answered here; FastAPI gets the other requests. Problem documents answer whatever fails.

It also reports a refused start: one log line with the reason instead of a traceback.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from artstore.auth.access import authorize, principal_of
from artstore.auth.guard import HEAD_ONLY
from artstore.auth.tokens import Principal
from artstore.clock import Clock, uuid7_hex
from artstore.contracts.files import canonical_id
from artstore.contracts.tokens import Role
from artstore.errors import ArtStoreError, InternalError, MethodNotAllowed, NotFound, StartRefused, Unavailable
from artstore.http import request_headers
from artstore.http.data_routes import FILE_ID, PlainHandler, RouteTable
from artstore.http.head import find_head_fault
from artstore.http.problems import CODE, AllowedMethods, ProblemResponse, problem_response, too_deep, was_cut_off
from artstore.http.request_cycle import RequestCycle
from artstore.limits.gate import DECISION, FAILED, NEVER_LIMITED, PRINCIPAL, TOKEN_PATH, Limits
from artstore.logs import JOINT_HEADER, get_logger, joint_requests, log_request, request_id
from artstore.metrics import RequestMetrics
from artstore.tracing import UNMATCHED, continue_trace, describe_request, exports, server_span

log = get_logger("artstore.http.edge")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_QUIET = frozenset({"/health/live", "/health/ready", "/metrics"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_EXCHANGE = "artstore.exchange"
_NONE: Mapping[str, str] = {}
_JOINT = JOINT_HEADER.encode()
SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox"),
]
"""Files are not trusted: a browser that opens one must not run scripts in it. A header set by the handler
takes precedence."""
_OWN_NAMES = frozenset({b"x-request-id", *(name for name, _ in SECURITY_HEADERS)})
_WHOLE = (Response.__call__, ProblemResponse.__call__)
"""The calls of responses that are in memory as a whole."""


class Exchange:
    """One request, and its response as far as it has been sent.

    `send` is the only wrapper around the server's: it adds the headers of the edge, and replaces a response that shows
    that too many credentials of this address were invalid.
    """

    __slots__ = (
        *("_limits", "_presented", "_replaced", "_send", "admitted", "complete", "fields", "request_id", "scope"),
        *("sent_bytes", "status"),
    )

    def __init__(
        self, scope: Scope, send: Send, limits: Limits, fields: Mapping[bytes, bytes], request_id: str
    ) -> None:
        self.scope, self._send, self._limits, self.fields, self.request_id = scope, send, limits, fields, request_id
        self.status, self.complete, self.sent_bytes = 0, False, 0
        self._presented = self._replaced = False
        self.admitted: Principal | None = None
        """The account behind a signed link, which has not authenticated."""

    def present_credentials(self) -> None:
        """From now on the response may show that the request's credentials are not valid."""
        self._presented = True

    async def send(self, message: Message) -> None:
        if self._replaced:
            return
        if message["type"] == "http.response.start":
            if self._may_show_failure(message["status"]) and await self._is_replaced(message):
                return
            self.status = message["status"]
            message["headers"] = self._with_own_headers(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self.sent_bytes += len(message.get("body", b""))
            self.complete = self.complete or not message.get("more_body", False)
        await self._send(message)

    async def respond(self, response: Response, receive: Receive, send: Send) -> None:
        """Sends a response. A complete one is handed to our own server in one call."""
        cycle = getattr(self._send, "__self__", None)
        if isinstance(response, ProblemResponse):
            self.scope["state"][CODE] = response.code
        whole = type(response).__call__ in _WHOLE and response.background is None and send == self.send
        if whole and isinstance(cycle, RequestCycle) and not self._may_show_failure(response.status_code):
            headers = self._with_own_headers(response.raw_headers)
            if cycle.respond(response.status_code, headers, response.body):
                self.status, self.complete, self.sent_bytes = response.status_code, True, len(response.body)
                return
        await response(self.scope, receive, send)

    @property
    def received_bytes(self) -> int:
        """Bytes of the content; 0 under another server than ours."""
        return getattr(getattr(self._send, "__self__", None), "received_bytes", 0)

    def note_joint_requests(self) -> None:
        """Names in the log the requests that a module makes this one for. No other caller may fill the log with ids."""
        principal = self.scope["state"].get(PRINCIPAL)
        if principal is not None and principal.role is Role.SERVICE:
            joint_requests.set(tuple(self.fields[_JOINT].decode("latin-1").split(",")))

    def _may_show_failure(self, status: int) -> bool:
        if not self._presented:
            return False
        state = self.scope["state"]
        return status == 401 or PRINCIPAL not in state or FAILED in state

    async def _is_replaced(self, message: Message) -> bool:
        refused = await self._limits.refuse_late(self.scope, message["status"])
        if refused is None:
            return False
        self._presented = False
        problem = problem_response(refused)
        # a script of an allowed origin may read the refusal too
        problem.raw_headers += [
            field
            for field in message.get("headers", ())
            if field[0].startswith(b"access-control-") or field[0] == b"vary"
        ]
        await problem(self.scope, _no_content, self.send)
        self._replaced = True
        return True

    def _with_own_headers(self, fields: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        whole = [*fields]
        decision = self.scope["state"].get(DECISION)
        if decision is not None:
            whole += decision.headers()
        own = [(b"x-request-id", self.request_id.encode()), *SECURITY_HEADERS]
        names = {name for name, _ in whole}
        if not _OWN_NAMES.isdisjoint(names):
            own = [field for field in own if field[0] not in names]
        return whole + own


class Edge:
    """The application that the server calls. `framework` answers requests that match no data route; `around` wraps the
    part that follows the head checks, for CORS. `links_port` is open to strangers: only signed links are answered there."""

    def __init__(
        self,
        app: ASGIApp,
        framework: ASGIApp,
        *,
        routes: RouteTable,
        allowed: AllowedMethods,
        limits: Limits,
        metrics: RequestMetrics,
        clock: Clock,
        around: Callable[[ASGIApp], ASGIApp] | None = None,
        links_port: int | None = None,
    ) -> None:
        self._app, self._framework, self._allowed, self._links_port = app, framework, allowed, links_port
        self._routes, self._limits, self._metrics, self._clock = routes, limits, metrics, clock
        self._around = around(self._process_inside) if around is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self._app
        if scope["type"] == "lifespan":
            await _run_lifespan(self._framework, scope, receive, send)
            return
        if scope["type"] != "http":
            await self._framework(scope, receive, send)
            return
        scope.setdefault("state", {})
        # 1. The ids that the caller sent, or new ones.
        fields, new = dict(scope["headers"]), uuid7_hex()
        given = fields.get(b"x-request-id", b"")
        if _REQUEST_ID.fullmatch(given):
            current = given.decode()
        else:
            current = f"{new[:8]}-{new[8:12]}-{new[12:16]}-{new[16:20]}-{new[20:]}"
        exchange = Exchange(scope, send, self._limits, fields, current)
        marked = request_id.set(current)
        try:
            if exports() and scope["path"] not in _QUIET:
                with server_span(scope["method"], Headers(scope=scope)):
                    await self._answer(exchange, receive)
            else:
                parent, state = fields.get(b"traceparent", b""), fields.get(b"tracestate", b"")
                continue_trace(parent.decode("latin-1"), state.decode("latin-1"), new)
                await self._answer(exchange, receive)
        finally:
            request_id.reset(marked)

    async def _answer(self, exchange: Exchange, receive: Receive) -> None:
        """Answers every request, whatever fails, and records the answer."""
        scope, send, began_s = exchange.scope, exchange.send, self._clock.monotonic_s()
        self._metrics.in_flight += 1
        try:
            # 2. The head.
            fault = find_head_fault(scope)
            if fault is not None:
                # content that a method never takes matters less than that the resource lacks the method
                shown = (fault.status == 400 and self._allowed.find_refusal(scope["method"], scope["path"])) or fault
                await exchange.respond(problem_response(shown), receive, send)
            elif self._around is None or b"origin" not in exchange.fields:
                await self._process(exchange, receive, send)
            else:
                scope[_EXCHANGE] = exchange
                await self._around(scope, receive, send)
        except asyncio.CancelledError:  # the service is stopping and waits no longer for this request
            if not exchange.status:
                stopping = Unavailable("the service is stopping: send the request again")
                await exchange.respond(problem_response(stopping), receive, send)
            raise
        except Exception as error:  # the request edge: every failure is answered
            log.error("request failed", error=repr(error), exc_info=True)
            if exchange.status:
                raise  # the response has begun: the server must abort the connection
            await exchange.respond(problem_response(InternalError()), receive, send)
        finally:
            scope.pop(_EXCHANGE, None)  # they refer to each other
            self._metrics.in_flight -= 1
            # 6. One count and one log line.
            self._record(exchange, self._clock.monotonic_s() - began_s)

    async def _process_inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._process(scope[_EXCHANGE], receive, send)

    async def _process(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        scope, limits = exchange.scope, self._limits
        path = scope["path"]
        if self._links_port is not None and scope["server"][1] == self._links_port and not self._is_link(scope):
            hidden = await limits.refuse_anonymous(scope) or NotFound()
            await exchange.respond(problem_response(hidden), receive, send)
            return
        if path in NEVER_LIMITED:
            await self._pass_to_framework(scope, receive, send)
            return
        # 3. Credentials are checked before they are counted; requests without any count for their address.
        if path == TOKEN_PATH or b"authorization" in exchange.fields:
            exchange.present_credentials()
        elif (refused := await limits.refuse_anonymous(scope)) is not None:
            await exchange.respond(problem_response(refused), receive, send)
            return
        limits.load.in_flight += 1
        try:
            found = self._routes.find(scope)
            if found is None:
                await self._pass_to_framework(scope, receive, send)
            else:
                await self._handle(found, exchange, receive, send)
        except MethodNotAllowed as error:
            await exchange.respond(problem_response(error), receive, send)
        finally:
            limits.load.in_flight -= 1

    def _is_link(self, scope: Scope) -> bool:
        """The path itself is the credential."""
        try:
            found = self._routes.find(scope)
        except MethodNotAllowed:
            return False
        return found is not None and found.admit is not None

    async def _handle(self, found: PlainHandler, exchange: Exchange, receive: Receive, send: Send) -> None:
        scope = exchange.scope
        request = Request(scope, receive, send)
        try:
            # 4. Token, the account's limits, permission, and the headers that the handler would ignore.
            if found.admit is not None:
                principal = exchange.admitted = await found.admit(request)
            else:
                await authorize(request, found.needed)
                if _JOINT in exchange.fields:
                    exchange.note_joint_requests()
            request_headers.check(scope["method"], scope["headers"], found.honours)
            # 5. The handler.
            if not found.transfer:
                await exchange.respond(await found.handler(request), receive, send)
                return
            if found.admit is None:
                principal = principal_of(request)
            self._limits.begin_transfer(principal)
            try:
                await exchange.respond(await found.handler(request), receive, send)
            finally:
                self._limits.end_transfer(principal)
        except (ArtStoreError, ClientDisconnect, RecursionError) as error:
            if exchange.status:
                raise  # `_answer` aborts the connection
            await exchange.respond(problem_response(_problem(error)), receive, send)

    async def _pass_to_framework(self, scope: Scope, receive: Receive, send: Send) -> None:
        """FastAPI routes have no HEAD: their GET is called, and the server sends only the head of the response."""
        if scope["method"] != "HEAD":
            await self._framework(scope, receive, send)
            return
        reading = {**scope, "method": "GET", HEAD_ONLY: True}
        try:
            await self._framework(reading, receive, send)
        finally:
            if "route" in reading:
                scope["route"] = reading["route"]

    def _record(self, exchange: Exchange, took_s: float) -> None:
        scope, status, state = exchange.scope, exchange.status, exchange.scope["state"]
        route = getattr(scope.get("route"), "path", UNMATCHED)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.count(method, route, status, took_s)
        if route in _QUIET:
            return
        principal = state.get(PRINCIPAL) or exchange.admitted
        fields = {
            "source": "artstore.http.edge",
            "method": method,
            "route": route,
            "status": status,
            "code": state.get(CODE),
            "complete": exchange.complete,
            "took_ms": round(took_s * 1000, 2),
            "received_bytes": exchange.received_bytes,
            "sent_bytes": 0 if method == "HEAD" else exchange.sent_bytes,
            "address": self._limits.client_address(scope, exchange.fields),
            "client_id": principal.client_id if principal else None,
            "file_id": state.get(FILE_ID) or canonical_id(scope.get("path_params", _NONE).get("file_id", "")),
        }
        if exports():
            describe_request(fields)
        log_request(fields)


def _problem(error: ArtStoreError | ClientDisconnect | RecursionError) -> ArtStoreError:
    if isinstance(error, ArtStoreError):
        return error
    return was_cut_off() if isinstance(error, ClientDisconnect) else too_deep()


async def _no_content() -> Message:
    return {"type": "http.disconnect"}


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

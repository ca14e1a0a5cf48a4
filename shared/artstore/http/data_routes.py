"""Routing for the data plane, in plain ASGI: it bypasses the FastAPI layers that only models need.

Those layers cost as much as the rest of a small request. A request that matches no data route (another path,
a wrong method) is passed on to FastAPI, which knows the same routes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from artstore.auth.access import authorize, principal_of
from artstore.auth.guard import HEAD_ONLY
from artstore.contracts.files import canonical_id
from artstore.contracts.tokens import Permission
from artstore.errors import ArtStoreError, MethodNotAllowed, NotFound
from artstore.http import request_headers
from artstore.http.problems import problem_response, too_deep, was_cut_off
from artstore.limits.gate import Limits

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class DataRoute:
    """A route without models and dependencies, whose handler reads the request's stream itself.

    `openapi` is the path item for these methods: {"put": {"summary": …, "responses": …}}. `honours` names the
    conditional, range and digest headers that the handler evaluates; requests with others are refused
    (`http/request_headers.py`). GET implies HEAD: the handler is called, and only the head of its response is
    sent.
    """

    path: str
    methods: Sequence[str]
    handler: Handler
    openapi: Mapping[str, Any]
    honours: frozenset[str] = frozenset()
    transfer: bool = False
    """The route carries a file's bytes, so the request counts as one of the account's transfers."""


def file_id_of(request: Request) -> str:
    """The id in the path, in canonical form. Raises NotFound for anything but a UUID."""
    file_id = canonical_id(request.path_params["file_id"])
    if file_id is None:
        raise NotFound("no file has this id")
    return file_id


@dataclass(frozen=True, slots=True)
class PlainHandler:
    """A handler with the permission it needs; `honours` and `transfer` as in DataRoute."""

    handler: Handler
    needed: Permission | None
    honours: frozenset[str]
    transfer: bool = False


@dataclass(frozen=True, slots=True)
class PlainRoute:
    """A path with its handlers by method. `route` is Starlette's, for the path pattern and the label of
    metrics."""

    route: Route
    by_method: Mapping[str, PlainHandler]


class DataPlane:
    """The innermost ASGI middleware."""

    def __init__(self, app: ASGIApp, *, routes: Sequence[PlainRoute]) -> None:
        self._app = app
        self._fixed = {plain.route.path: plain for plain in routes if not plain.route.param_convertors}
        self._patterns = [plain for plain in routes if plain.route.param_convertors]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            found = self._find(scope) if scope["type"] == "http" else None
        except MethodNotAllowed as error:
            await problem_response(error)(scope, receive, send)
            return
        if found is None:
            await self._pass_to_fastapi(scope, receive, send)
            return
        started = False

        async def tracking_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        request = Request(scope, receive, tracking_send)
        try:
            await authorize(request, found.needed)
            request_headers.check(scope["method"], scope["headers"], found.honours)
            with _transfer(request) if found.transfer else nullcontext():
                response = await found.handler(request)
                await response(scope, receive, tracking_send)
        except (ArtStoreError, ClientDisconnect, RecursionError) as error:
            if started:
                raise  # the edge aborts the connection
            await problem_response(_problem(error))(scope, receive, send)

    async def _pass_to_fastapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """FastAPI routes have no HEAD: their GET is called, and the server sends only the head of the
        response."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        reading = {**scope, "method": "GET", HEAD_ONLY: True}
        try:
            await self._app(reading, receive, send)
        finally:
            if "route" in reading:
                scope["route"] = reading["route"]

    def _find(self, scope: Scope) -> PlainHandler | None:
        """Raises MethodNotAllowed for a fixed path with a wrong method, which a pattern would take for an id."""
        path, method = scope["path"], scope["method"]
        fixed = self._fixed.get(path)
        if fixed is not None and method in fixed.by_method:
            scope["path_params"] = {}
            scope["route"] = fixed.route
            return fixed.by_method[method]
        for plain in self._patterns:
            match = plain.route.path_regex.match(path)
            if match is not None and method in plain.by_method:
                if fixed is not None:
                    scope["route"] = fixed.route
                    raise MethodNotAllowed(allow=", ".join(sorted(fixed.by_method)))
                convertors = plain.route.param_convertors
                scope["path_params"] = {
                    name: convertors[name].convert(value) for name, value in match.groupdict().items()
                }
                scope["route"] = plain.route
                return plain.by_method[method]
        return None


def _transfer(request: Request) -> AbstractContextManager[None]:
    limits: Limits = request.app.state.limits
    return limits.transfer(principal_of(request))


def _problem(error: ArtStoreError | ClientDisconnect | RecursionError) -> ArtStoreError:
    if isinstance(error, ArtStoreError):
        return error
    return was_cut_off() if isinstance(error, ClientDisconnect) else too_deep()

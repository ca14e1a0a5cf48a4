"""The routes that the edge answers itself, past the FastAPI layers that only models need.

Those layers cost as much as the rest of a small request. A request that matches no data route (another path,
a wrong method) is passed on to FastAPI, which knows the same routes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from artstore.auth.tokens import Principal
from artstore.contracts.files import canonical_id
from artstore.contracts.tokens import Permission
from artstore.errors import MethodNotAllowed, NotFound

FILE_ID = "file_id"
"""Key in the request's state: the id of the file."""

Handler = Callable[[Request], Awaitable[Response]]
Admit = Callable[[Request], Awaitable[Principal]]


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
    admit: Admit | None = None
    """Set for a public route whose path is the credential: checks it, and returns the account behind it."""


def note_file(request: Request, file_id: str) -> None:
    """Names the request's file for the log and the trace, also where the path does not."""
    request.scope["state"][FILE_ID] = file_id


def file_id_of(request: Request) -> str:
    """The id in the path, in canonical form. Raises NotFound for anything but a UUID."""
    file_id = canonical_id(request.path_params["file_id"])
    if file_id is None:
        raise NotFound("no file has this id")
    note_file(request, file_id)
    return file_id


@dataclass(frozen=True, slots=True)
class PlainHandler:
    """A handler with the permission it needs; `honours`, `transfer` and `admit` as in DataRoute."""

    handler: Handler
    needed: Permission | None
    honours: frozenset[str]
    transfer: bool = False
    admit: Admit | None = None


@dataclass(frozen=True, slots=True)
class PlainRoute:
    """A path with its handlers by method. `route` is Starlette's, for the path pattern and the label of
    metrics."""

    route: Route
    by_method: Mapping[str, PlainHandler]


class RouteTable:
    """The data routes of a service. All path parameters are text."""

    def __init__(self, routes: Sequence[PlainRoute]) -> None:
        self._fixed = {plain.route.path: plain for plain in routes if not plain.route.param_convertors}
        self._patterns = [plain for plain in routes if plain.route.param_convertors]

    def find(self, scope: Scope) -> PlainHandler | None:
        """The handler; sets the scope's route and path parameters. Raises MethodNotAllowed for a fixed path with a
        wrong method, whose last segment a pattern, also one of FastAPI's routes, would take for an id."""
        path, method = scope["path"], scope["method"]
        fixed = self._fixed.get(path)
        if fixed is not None:
            scope["path_params"] = {}
            scope["route"] = fixed.route
            if method not in fixed.by_method:
                raise MethodNotAllowed(allow=", ".join(sorted(fixed.by_method)))
            return fixed.by_method[method]
        for plain in self._patterns:
            match = plain.route.path_regex.match(path)
            if match is not None and method in plain.by_method:
                scope["path_params"] = match.groupdict()
                scope["route"] = plain.route
                return plain.by_method[method]
        return None

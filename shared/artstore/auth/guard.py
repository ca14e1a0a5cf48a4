"""Routes that always check the permission table (auth/access.py)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from artstore.auth.access import ENDPOINTS, authorize
from artstore.contracts.idempotency import HEADER as KEY_HEADER
from artstore.contracts.tokens import Audience, Permission
from artstore.errors import InvalidFields, UnsupportedHeader
from artstore.http import request_headers
from artstore.http.body import limited_receive
from artstore.http.json import check_keys

READS_BODY = "__artstore_reads_body__"
TAKES_KEY = "__artstore_takes_key__"
HEAD_ONLY = "artstore.head_only"
"""Key in a request's scope: send only the head of the response."""
_NO_CONTENT = frozenset({b"", b"{}"})

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])


class GuardedRoute(APIRoute):
    """Checks the permission before it reads the body, bounds the body, and refuses what the endpoint would
    ignore: conditional headers, content, and query parameters of a change."""

    audience: Audience

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            method = request.method
            await authorize(request, permission_for(self.audience, method, self.path))
            request_headers.check(method, request.scope["headers"])
            if method == "POST" and KEY_HEADER in request.headers and not getattr(self.endpoint, TAKES_KEY, False):
                raise UnsupportedHeader(f"{KEY_HEADER} is not supported here", header=KEY_HEADER)
            if method != "GET":
                self._check_parameters(request)
            takes_content = self.body_field is not None or self.reads_body
            limited = Request(request.scope, limited_receive(request, takes_content=takes_content))
            body = await limited.body()
            if not takes_content and body.strip() not in _NO_CONTENT:
                raise InvalidFields("this endpoint takes no content", fields=["body"])
            check_keys(body)
            answer = await inner(limited)
            return _head_of(answer) if HEAD_ONLY in request.scope else answer

        return guarded

    @property
    def reads_body(self) -> bool:
        """True if the endpoint decodes the body itself, without a model."""
        return getattr(self.endpoint, READS_BODY, False)

    def _check_parameters(self, request: Request) -> None:
        known = {parameter.alias for parameter in self.dependant.query_params}
        unknown = sorted(set(request.query_params) - known)
        if unknown:
            raise InvalidFields(f"unknown parameters: {', '.join(unknown)}", fields=unknown)


def reads_body(endpoint: _Endpoint) -> _Endpoint:
    """Decorator for an endpoint that decodes the body itself."""
    setattr(endpoint, READS_BODY, True)
    return endpoint


def takes_key(endpoint: _Endpoint) -> _Endpoint:
    """Decorator for an endpoint that honours an Idempotency-Key."""
    setattr(endpoint, TAKES_KEY, True)
    return endpoint


def _head_of(answer: Response) -> Response:
    """The same response without its body, so that a streamed body is not generated."""
    if not isinstance(answer, StreamingResponse):
        return answer
    head = Response(status_code=answer.status_code)
    head.raw_headers = answer.raw_headers
    return head


def new_router(audience: Audience) -> APIRouter:
    """The only kind of router that build_app accepts: each of its routes must be in the permission table."""
    guarded = type(f"Guarded{audience.value.title()}Route", (GuardedRoute,), {"audience": audience})
    return APIRouter(route_class=guarded)


def permission_for(audience: Audience, method: str, path: str) -> Permission | None:
    """The permission that the table demands. Raises KeyError for an unlisted route: nothing is public by
    omission."""
    table = ENDPOINTS[audience]
    name = f"{method} {path}"
    return table["GET " + path] if method == "HEAD" and name not in table else table[name]

"""Routes that cannot be reached past the table of permissions."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from artstore.auth.access import ENDPOINTS, authorize
from artstore.contracts.tokens import Audience, Permission
from artstore.errors import InvalidFields
from artstore.http import request_headers
from artstore.http.body import limited_receive
from artstore.http.json import check_depth, check_keys

READS_BODY = "__artstore_reads_body__"
HEAD_ONLY = "artstore.head_only"
"""Key in a request's scope: only the head of the answer is wanted."""
_NO_CONTENT = frozenset({b"", b"{}"})

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])


class GuardedRoute(APIRoute):
    """Asks for the permission before the body is read, reads no more of it than JSON may have, and refuses whatever of the
    request the endpoint would pass over: conditions, content, and query parameters of a change."""

    audience: Audience

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            method = request.method
            await authorize(request, needed_for(self.audience, method, self.path))
            request_headers.check(method, request.scope["headers"])
            if method != "GET":
                self._check_parameters(request)
            takes_content = self.body_field is not None or self.reads_body
            limited = Request(request.scope, limited_receive(request, takes_content=takes_content))
            body = await limited.body()
            if not takes_content and body.strip() not in _NO_CONTENT:
                raise InvalidFields("this takes no content", fields=["body"])
            check_depth(body)
            check_keys(body)
            answer = await inner(limited)
            return _head_of(answer) if HEAD_ONLY in request.scope else answer

        return guarded

    @property
    def reads_body(self) -> bool:
        """Whether the endpoint decodes the body itself, without a model."""
        return getattr(self.endpoint, READS_BODY, False)

    def _check_parameters(self, request: Request) -> None:
        known = {parameter.alias for parameter in self.dependant.query_params}
        unknown = sorted(set(request.query_params) - known)
        if unknown:
            raise InvalidFields(f"unknown parameters: {', '.join(unknown)}", fields=unknown)


def reads_body(endpoint: _Endpoint) -> _Endpoint:
    """Marks an endpoint that decodes the body itself."""
    setattr(endpoint, READS_BODY, True)
    return endpoint


def _head_of(answer: Response) -> Response:
    """Without its body, so that one that is streamed is not made."""
    if not isinstance(answer, StreamingResponse):
        return answer
    head = Response(status_code=answer.status_code)
    head.raw_headers = answer.raw_headers
    return head


def new_router(audience: Audience) -> APIRouter:
    """The only kind of router build_app takes: each of its routes stands in the table of permissions."""
    guarded = type(f"Guarded{audience.value.title()}Route", (GuardedRoute,), {"audience": audience})
    return APIRouter(route_class=guarded)


def needed_for(audience: Audience, method: str, path: str) -> Permission | None:
    """KeyError for a route that is not in the table: nothing is open by omission."""
    table = ENDPOINTS[audience]
    name = f"{method} {path}"
    return table["GET " + path] if method == "HEAD" and name not in table else table[name]

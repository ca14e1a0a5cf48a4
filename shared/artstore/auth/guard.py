"""Routes that cannot be reached past the table of permissions."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from artstore.auth.access import ENDPOINTS, authorize
from artstore.body_limit import limited_receive
from artstore.contracts.tokens import Audience, Permission
from artstore.jsons import check_depth


class GuardedRoute(APIRoute):
    """Asks for the permission before the body is read, and reads no more of it than JSON may have."""

    audience: Audience

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            await authorize(request, needed_for(self.audience, request.method, self.path))
            limited = Request(request.scope, limited_receive(request))
            check_depth(await limited.body())
            return await inner(limited)

        return guarded


def new_router(audience: Audience) -> APIRouter:
    """The only kind of router build_app takes: each of its routes stands in the table of permissions."""
    guarded = type(f"Guarded{audience.value.title()}Route", (GuardedRoute,), {"audience": audience})
    return APIRouter(route_class=guarded)


def needed_for(audience: Audience, method: str, path: str) -> Permission | None:
    """KeyError for a route that is not in the table: nothing is open by omission."""
    table = ENDPOINTS[audience]
    name = f"{method} {path}"
    return table["GET " + path] if method == "HEAD" and name not in table else table[name]

"""X-ArtStore-Degraded: the dependencies that are unavailable, on every answer, also when the answer did not need them."""

from __future__ import annotations

from functools import wraps

from starlette.requests import Request
from starlette.responses import Response

from artstore.errors import DATABASE, REDIS, ArtStoreError
from artstore.health import Health
from artstore.http.data_routes import Handler
from artstore.http.problems import problem_response

from ..core.context import context_of

HEADER = "x-artstore-degraded"
CATALOG = "catalog"
"""A list may lack files: the catalog was restored or lost, and not every element has reconciled it with its disk yet."""
CACHES = (REDIS, DATABASE)
"""Health checks whose failure removes a cache, change events or lists. An element is named by the handler that needs it."""


def with_degraded_header(handler: Handler) -> Handler:
    """Joins what the handler found unavailable, from its header or its error, with the failing health checks."""

    @wraps(handler)
    async def wrapped(request: Request) -> Response:
        found: list[str] = []
        try:
            answer = await handler(request)
        except ArtStoreError as error:
            answer = problem_response(error)
            found = _named_by(error)
        if HEADER in answer.headers:
            found = answer.headers[HEADER].split(", ")
        failing = _failing(request.app.state.runtime.health, context_of(request).invalidation.subscribed)
        if names := ", ".join(dict.fromkeys([*found, *failing])):
            answer.headers[HEADER] = names
        return answer

    return wrapped


def _named_by(error: ArtStoreError) -> list[str]:
    away = error.fields.get("away", ())
    return [away] if isinstance(away, str) else [str(name) for name in away]


def _failing(health: Health, subscribed: bool) -> list[str]:
    """Without a subscription Redis counts as unavailable even if it answers, because memory may be stale."""
    away = health.failing()
    return [name for name in CACHES if name in away or (name == REDIS and not subscribed)]

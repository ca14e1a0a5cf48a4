"""X-ArtStore-Degraded: what is away, on every answer while something is, also when the level that answered did not need it."""

from __future__ import annotations

from functools import wraps

from starlette.requests import Request
from starlette.responses import Response

from artstore.errors import ArtStoreError
from artstore.health import Health
from artstore.http.problems import problem_response
from artstore.service import Handler

HEADER = "x-artstore-degraded"
CATALOG = "catalog"
"""Of a list: the catalog went back in time or was lost, and not every element has brought it in line with its disk yet."""
LEVELS = ("redis", "database")
"""Health checks whose failure takes away a cache, the news of changes or the lists. An element is named by who missed it."""


def saying_what_is_away(handler: Handler) -> Handler:
    """Joins what the handler met, which it says in the header or in its error, with what the health checks know."""

    @wraps(handler)
    async def told(request: Request) -> Response:
        met: list[str] = []
        try:
            answer = await handler(request)
        except ArtStoreError as error:
            answer = problem_response(error)
            met = _named_by(error)
        if HEADER in answer.headers:
            met = answer.headers[HEADER].split(", ")
        state = request.app.state
        if named := ", ".join(dict.fromkeys([*met, *_known(state.runtime.health, state.context.changes.heard)])):
            answer.headers[HEADER] = named
        return answer

    return told


def _named_by(error: ArtStoreError) -> list[str]:
    away = error.fields.get("away", ())
    return [away] if isinstance(away, str) else [str(name) for name in away]


def _known(health: Health, heard: bool) -> list[str]:
    """While changes are not heard, Redis is away even if it answers: memory may be behind."""
    away = health.away()
    return [name for name in LEVELS if name in away or (name == "redis" and not heard)]

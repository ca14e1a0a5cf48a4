"""The endpoints /health/live, /health/ready and /metrics of every service."""

from __future__ import annotations

import time

from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from artstore.auth.guard import new_router
from artstore.contracts.tokens import Audience
from artstore.http.json import JsonResponse
from artstore.metrics import CONTENT_TYPE, exposition

MAX_SHARE = 0.1
"""Share of the process's time for the metrics page, which anybody may request without credentials."""
MAX_CREDIT_S = 1.0
"""Unused time that accumulates, so that an ordinary scraper always gets current values."""


class Exposition:
    """The metrics page. While the time share is used up it returns the previous text, which is a fraction of
    a second old."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._credit_s, self._asked_s = MAX_CREDIT_S, 0.0
        self._text = b""

    def current(self, now_s: float) -> bytes:
        self._credit_s = min(MAX_CREDIT_S, self._credit_s + MAX_SHARE * (now_s - self._asked_s))
        self._asked_s = now_s
        if self._credit_s > 0 or not self._text:
            began_s = time.perf_counter()
            self._text = exposition(self._registry)
            self._credit_s -= time.perf_counter() - began_s
        return self._text


def status_router(audience: Audience, registry: CollectorRegistry) -> APIRouter:
    router = new_router(audience)

    @router.get("/health/live", tags=["status"], summary="200 while the process runs", operation_id="get_live")
    async def live() -> Response:
        return JsonResponse({"status": "live"})

    @router.get(
        "/health/ready", tags=["status"], summary="200, or 503 with the checks that fail", operation_id="get_ready"
    )
    async def ready(request: Request) -> Response:
        health = request.app.state.runtime.health
        return JsonResponse(health.report(), 200 if health.ready else 503)

    shown = Exposition(registry)

    @router.get(
        "/metrics",
        tags=["status"],
        summary="Prometheus exposition",
        operation_id="get_metrics",
        response_class=PlainTextResponse,
    )
    async def metrics() -> Response:
        return Response(shown.current(time.monotonic()), media_type=CONTENT_TYPE)

    return router

"""/health/live, /health/ready and /metrics, the same on every service."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from artstore.auth.guard import new_router
from artstore.contracts.tokens import Audience
from artstore.http.json import JsonResponse
from artstore.metrics import CONTENT_TYPE, exposition


def status_router(audience: Audience, registry: CollectorRegistry) -> APIRouter:
    router = new_router(audience)

    @router.get("/health/live", tags=["status"], summary="200 while the process runs")
    async def live() -> Response:
        return JsonResponse({"status": "live"})

    @router.get("/health/ready", tags=["status"], summary="200, or 503 with what is missing")
    async def ready(request: Request) -> Response:
        health = request.app.state.runtime.health
        return JsonResponse(health.report(), 200 if health.ready else 503)

    @router.get("/metrics", tags=["status"], summary="Prometheus exposition", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(exposition(registry), media_type=CONTENT_TYPE)

    return router

"""/api/element: what this element is and how full, and the way to its next mode. Called by admin."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from artstore.audit.event import Event
from artstore.auth.access import principal_of
from artstore.auth.guard import new_router
from artstore.contracts.elements import Mode
from artstore.contracts.tokens import Audience
from artstore.jsons import JsonResponse

from ..core.context import Context


class ModeChange(BaseModel):
    model_config = ConfigDict(extra="forbid")
    mode: Mode


def router() -> APIRouter:
    routes = new_router(Audience.STORAGE)
    routes.get("/api/element", tags=["element"], summary="Mode, capacity, version")(show)
    routes.post("/api/element/mode", tags=["element"], summary="Go on to the next mode: rw to ro, ro to ar")(
        change_mode
    )
    return routes


async def show(request: Request) -> Response:
    return JsonResponse(_context(request).element.report())


async def change_mode(request: Request, wanted: ModeChange) -> Response:
    """Durable when answered. Operations that have begun may finish; later ones meet the new mode."""
    element = _context(request).element
    was = element.mode
    if await element.change_mode(wanted.mode):
        resource = f"storage-elements/{element.report().id}"
        metadata = {"was": was.value, "mode": wanted.mode.value}
        changed = Event("element.mode", principal_of(request).client_id, resource, metadata=metadata)
        await request.app.state.runtime.audit.record(changed)
        await element.announce_now()
    return JsonResponse(element.report())


def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context

"""/api/element: identity, mode, capacity and upkeep of this element. Called by admin."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from artstore.audit.event import Event
from artstore.auth.access import principal_of
from artstore.auth.guard import new_router
from artstore.contracts.elements import ModeChange, RebuildOrder
from artstore.contracts.tokens import Audience
from artstore.errors import Unavailable
from artstore.http.json import JsonResponse
from artstore.http.openapi import described

from ..core.context import context_of
from ..upkeep.upkeep import Upkeep


def router() -> APIRouter:
    routes = new_router(Audience.STORAGE)
    routes.get("/api/element", tags=["element"], summary="Mode, capacity, version", **described("get_element"))(show)
    routes.post(
        "/api/element/mode",
        tags=["element"],
        summary="Change to the next mode: rw to ro, ro to ar",
        **described("change_mode"),
    )(change_mode)
    routes.post(
        "/api/element/rebuild",
        tags=["element"],
        summary="Reconcile the catalog with the disk",
        **described("rebuild", None, 202),
    )(rebuild)
    routes.post(
        "/api/element/verify",
        tags=["element"],
        summary="Compare every file with its checksum",
        **described("verify", None, 202),
    )(verify)
    return routes


async def show(request: Request) -> Response:
    """The report to admin, and the progress of upkeep."""
    context = context_of(request)
    context.serving.require()
    return JsonResponse({**msgspec.to_builtins(context.element.report()), "upkeep": context.upkeep.status()})


async def rebuild(request: Request, wanted: RebuildOrder | None = None) -> Response:
    """Runs in the background. If one is running already, its state is returned."""
    upkeep = _upkeep(request)
    upkeep.start_rebuild(force=wanted is not None and wanted.force)
    return JsonResponse(upkeep.status(), 202)


async def verify(request: Request) -> Response:
    """Runs in the background. If one is running already, its state is returned."""
    upkeep = _upkeep(request)
    upkeep.start_scrub()
    return JsonResponse(upkeep.status(), 202)


async def change_mode(request: Request, wanted: ModeChange) -> Response:
    """Durable when answered. Running operations may finish; later ones get the new mode."""
    element = context_of(request).element
    was = element.mode
    if await element.change_mode(wanted.mode):
        metadata = {"was": was.value, "mode": wanted.mode.value}
        changed = Event("element:mode", principal_of(request).subject, element.id, metadata=metadata)
        await request.app.state.runtime.audit.record(changed)
        await element.announce_now()
    return JsonResponse(element.report())


def _upkeep(request: Request) -> Upkeep:
    """Raises Unavailable until upkeep has loaded the unfinished tasks of the last process."""
    context = context_of(request)
    context.serving.require_confirmed()
    if not context.upkeep.begun:
        raise Unavailable("the element is starting", away=context.element.id)
    return context.upkeep

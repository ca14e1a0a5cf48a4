"""/api/storage-elements: the registry for operators and for modules without Redis, and the reports of
elements."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from artstore.audit.access_denied import record_denial
from artstore.audit.event import Event
from artstore.auth.access import principal_of
from artstore.auth.guard import new_router, reads_body
from artstore.contracts.elements import (
    DEFAULT_PRIORITY,
    MAKE_ROOT,
    ONLINE,
    Element,
    ElementReport,
    Mode,
    ModeChange,
    RebuildOrder,
)
from artstore.contracts.tokens import Audience
from artstore.errors import Forbidden, InvalidFields
from artstore.http.json import JsonResponse, parse_json
from artstore.http.lists import DEFAULT_LIMIT
from artstore.http.openapi import described
from artstore.logs import get_logger
from artstore.peers.addresses import MAX_URL_CHARS

from ..core.context import context_of
from ..elements import registry, reports
from ..elements.registry import ELEMENT_ID
from ..elements.reports import Reported
from ..sagas.claim import make_due
from .changes import accepted
from .documents import ELEMENT, ELEMENT_ANSWER, ELEMENTS, MODE_ANSWERS, UPKEEP
from .parameters import WHOLE, Cursor, Limit, allow_only, parse_cursor, split_page

log = get_logger("admin.elements")

Priority = Annotated[int, Field(ge=0, le=1_000_000), WHOLE]
Url = Annotated[str, Field(max_length=MAX_URL_CHARS, pattern=r"^https?://[A-Za-z0-9.:\[\]-]+/?$")]


class NewElement(BaseModel):
    """An element that has not reported yet; it is away until it does."""

    model_config = ConfigDict(extra="forbid")
    id: Annotated[str, Field(pattern=f"^{ELEMENT_ID.pattern}$")]
    url: Url
    mode: Mode = Mode.RW
    priority: Priority = DEFAULT_PRIORITY


class ElementChange(BaseModel):
    """A priority set here overrides the one that the element reports."""

    model_config = ConfigDict(extra="forbid")
    url: Url | None = None
    priority: Priority | None = None


def router() -> APIRouter:
    routes = new_router(Audience.ADMIN)
    base, one = "/api/storage-elements", "/api/storage-elements/{element_id}"
    tags: list[Any] = ["elements"]
    routes.get(
        base,
        tags=tags,
        summary="The registry, in the order of filling",
        dependencies=[allow_only()],
        **described("list_elements", ELEMENTS),
    )(list_all)
    routes.post(
        base,
        tags=tags,
        summary="Register an element before its first report",
        **described("register_element", ELEMENT, 201),
    )(register)
    routes.get(one, tags=tags, summary="One element", **described("get_element", ELEMENT))(show)
    routes.patch(one, tags=tags, summary="Change url or priority", **described("change_element", ELEMENT))(change)
    routes.delete(
        one,
        tags=tags,
        summary="Remove an empty element from the registry",
        **described("remove_element", None, 204),
    )(delete)
    routes.post(
        f"{one}/report", tags=tags, summary="The report of an element", **described("report_element", ELEMENT_ANSWER)
    )(report)
    routes.post(
        f"{one}/mode",
        tags=tags,
        summary="Move the element to the next mode: rw to ro, ro to ar",
        **described("change_element_mode", ELEMENT) | {"responses": MODE_ANSWERS},
    )(change_mode)
    routes.post(
        f"{one}/rebuild",
        tags=tags,
        summary="Make the element rebuild its part of the catalog from its disk",
        **described("rebuild_element", UPKEEP, 202),
    )(rebuild)
    routes.post(
        f"{one}/verify",
        tags=tags,
        summary="Make the element verify its files",
        **described("verify_element", UPKEEP, 202),
    )(verify)
    routes.post(
        f"{one}/accept-root",
        tags=tags,
        summary="Accept the refused root that is reporting as the element's",
        **described("accept_root", ELEMENT),
    )(accept_root)
    return routes


async def list_all(request: Request, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    snapshot = await registry.load_snapshot(context_of(request).database)
    ids = [element.id for element in snapshot.elements]
    begin = parse_cursor(cursor, ids.index)
    begin = 0 if begin is None else begin + 1
    shown, next_cursor = split_page(snapshot.elements[begin : begin + limit + 1], limit, lambda element: element.id)
    return JsonResponse(
        {
            "items": shown,
            "next_cursor": next_cursor,
            "version": snapshot.version,
            "generation": snapshot.generation,
            "published_at": snapshot.published_at,
        }
    )


async def register(request: Request, new: NewElement) -> Response:
    context = context_of(request)
    async with context.database.begin() as conn:
        element = await registry.register(conn, new.id, new.url, new.mode, new.priority)
        event = _event(request, "element:register", new.id, {"url": element.url, "priority": element.priority})
        await context.auditor.record(conn, event)
    context.publisher.wake()
    return JsonResponse(element, 201, {"location": f"/api/storage-elements/{new.id}"})


async def show(request: Request, element_id: str) -> Response:
    async with context_of(request).database.begin() as conn:
        return JsonResponse(await registry.load_element(conn, element_id))


async def change(request: Request, element_id: str, wanted: ElementChange) -> Response:
    context = context_of(request)
    async with context.database.begin() as conn:
        element = await registry.change(conn, element_id, url=wanted.url, priority=wanted.priority)
        given = wanted.model_dump(exclude_none=True)
        await context.auditor.record(conn, _event(request, "element:update", element_id, given))
    context.publisher.wake()
    return JsonResponse(element)


async def delete(request: Request, element_id: str) -> Response:
    context = context_of(request)
    async with context.database.begin() as conn:
        await registry.remove(conn, element_id)
        await context.auditor.record(conn, _event(request, "element:delete", element_id, {}))
    context.publisher.wake()
    return Response(status_code=204)


@reads_body
async def report(request: Request, element_id: str) -> Response:
    """The reporting account must be the element's own: its client_id is the element's id."""
    context = context_of(request)
    announced = parse_json(await request.body(), ElementReport)
    if announced.id != element_id:
        raise InvalidFields("the report is for a different element", fields=["id"])
    if (caller := principal_of(request)).client_id != element_id:
        refusal = Forbidden("an account may report only for the element with its own id")
        await record_denial(request, refusal, caller)
        raise refusal
    serving = await context.commands.find_serving(announced)
    async with context.database.begin() as conn:
        reported = await reports.report(conn, announced, serving)
        state = None
        if reported.element is not None:
            state = await context.generations.record_report(conn, announced)
        if reported.element is not None and reported.element.status == ONLINE:
            await make_due(conn, element_id)
        if reported.refused_anew and reported.refusal is not None:
            metadata = {"code": reported.refusal.code, "root_id": announced.root_id, "url": announced.url}
            by = principal_of(request).subject
            refused = Event("element:refuse-root", by, element_id, "denied", metadata)
            await context.auditor.record(conn, refused)
        if reported.element is not None and reported.audited:
            await context.auditor.record(conn, _announced(request, reported, reported.element, announced))
    context.publisher.wake()
    if reported.refusal is not None:
        if reported.refused_anew:
            log.warning("root refused", element_id=element_id, reason=reported.refusal.detail, url=announced.url)
        raise reported.refusal
    if reported.element is None:
        return JsonResponse({"verdict": MAKE_ROOT})
    if reported.was_away or reported.mode_before is None:
        element = reported.element
        log.info("element online", element_id=element_id, mode=element.mode.value, url=element.url)
    context.saga_worker.wake()
    return JsonResponse({**msgspec.to_builtins(reported.element), "registry": state})


async def accept_root(request: Request, element_id: str) -> Response:
    """Files that only the previous root had are answered 503 or 404 until a rebuild deletes their rows."""
    context = context_of(request)
    async with context.database.begin() as conn:
        element, changed = await reports.accept_root(conn, element_id)
        await context.auditor.record(conn, _event(request, "element:accept-root", element_id, changed))
    context.publisher.wake()
    return JsonResponse(element)


async def change_mode(request: Request, element_id: str, wanted: ModeChange) -> Response:
    context = context_of(request)
    done = await context.commands.change_mode(element_id, wanted.mode, principal_of(request))
    if not isinstance(done, Element):
        context.saga_worker.wake()
        return accepted(done)
    context.publisher.wake()
    return JsonResponse(done)


async def rebuild(request: Request, element_id: str, wanted: RebuildOrder | None = None) -> Response:
    return await _run(request, element_id, "rebuild", wanted.model_dump() if wanted is not None else {})


async def verify(request: Request, element_id: str) -> Response:
    return await _run(request, element_id, "verify", {})


async def _run(request: Request, element_id: str, task: str, order: dict[str, Any]) -> Response:
    answer = await context_of(request).commands.run(element_id, task, order, principal_of(request).subject)
    return JsonResponse(answer.body, answer.status)


def _announced(request: Request, reported: Reported, element: Element, announced: ElementReport) -> Event:
    before: dict[str, Any] = {"mode": reported.mode_before, "url": reported.url_before}
    metadata: dict[str, Any] = {"mode": element.mode.value, "url": element.url, "before": before}
    if element.public_url != reported.public_url_before:
        metadata["public_url"], before["public_url"] = element.public_url, reported.public_url_before
    if announced.mode_forced:
        metadata["forced"] = True
    return _event(request, "element:announce", element.id, metadata)


def _event(request: Request, action: str, element_id: str, metadata: dict[str, Any]) -> Event:
    return Event(action, principal_of(request).subject, element_id, metadata=metadata)

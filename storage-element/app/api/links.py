"""GET|HEAD /api/links/{link}: the bytes of a file here, straight to the holder of a signed link."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from artstore.audit.reads import part_of
from artstore.contracts.files import Attributes
from artstore.http.content_head import FieldsResponse, as_inline, head_of
from artstore.http.link_route import link_of
from artstore.http.preconditions import Plan, conditions_in, plan

from ..core.context import context_of
from ..store.get import open_file
from .transfer import FileResponse


async def read_link(request: Request) -> Response:
    """The same answer as query's. A cold file is read in every mode."""
    context, link = context_of(request), link_of(request)
    with context.files.operation("download"):
        opened = await open_file(context.store, link.file_id)
        try:
            chosen, fields = _decide(request, opened.attributes, link.disposition)
            part = part_of(request.method, chosen.status)
            await context.reads.record(request, opened.attributes, link.account, part, by_link=True)
        except BaseException:
            opened.close()
            raise
        if chosen.status == 304 or request.method == "HEAD":
            opened.close()
            return FieldsResponse(chosen.status, fields)
    first, end = 0, opened.attributes.size_bytes
    if chosen.part is not None:
        first, end = chosen.part.first, chosen.part.last + 1
    return FileResponse(opened, chosen.status, fields, first, end, context.limits.rate, context.upkeep.suspect)


def _decide(request: Request, attributes: Attributes, disposition: str) -> tuple[Plan, list[tuple[bytes, bytes]]]:
    """Raises RevisionMismatch, RangeNotSatisfiable."""
    head = head_of(attributes)
    conditions = conditions_in(request.scope["headers"])
    chosen = plan(request.method, conditions, head.validators, attributes.size_bytes)
    fields = head.fields(chosen)
    return chosen, as_inline(fields, attributes.content_type) if disposition == "inline" else fields

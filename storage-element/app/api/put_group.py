"""POST PUT_GROUP_PATH: the small files of concurrent uploads in one request, each with an answer of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from starlette.requests import Request
from starlette.responses import Response

from artstore.contracts.storage import (
    MAX_PUT_GROUP_BYTES,
    PUT_GROUP_TYPE,
    GroupedPut,
    GroupedResult,
    decode_puts,
    encode_group,
)
from artstore.errors import ArtStoreError, InternalError
from artstore.http.body import limited_receive
from artstore.logs import get_logger, request_id, trace_id
from artstore.modes import Operation
from artstore.tracing import continue_trace, exports, server_span

from ..core.context import Context, context_of
from ..store.put import PutOperation
from ..store.receive import Body, Expected
from .files import put_order

log = get_logger("element.put_group")


async def put_group(request: Request) -> Response:
    context = context_of(request)
    received = Request(request.scope, limited_receive(request, MAX_PUT_GROUP_BYTES))
    puts = decode_puts(await received.body())
    try:
        context.element.require(Operation.CREATE)
        context.store.disk_health.require_writable()
    except ArtStoreError as error:  # of the element, so it answers the request and counts at the caller's breaker
        context.files.operations.labels("put", error.code).inc(len(puts))
        raise
    results = await context.store.complete(_put_all(context, puts))
    request_ids = [put.request_id for put in puts]
    if request_ids != [request_id.get()]:  # else the line of this request names it
        log.info("files of a group put", request_ids=request_ids)
    return Response(encode_group(results), media_type=PUT_GROUP_TYPE)


async def _put_all(context: Context, puts: Sequence[GroupedPut]) -> list[GroupedResult]:
    """At once, so that they share the sync of the log and the group of the catalog. A single one needs no further task."""
    if len(puts) == 1:
        return [await _put_one(context, puts[0])]
    return await asyncio.gather(*(_put_one(context, put) for put in puts))


async def _put_one(context: Context, put: GroupedPut) -> GroupedResult:
    """In a task of its own, so what is logged about the file names the client's request and trace."""
    request_id.set(put.request_id)
    try:
        with _traced(put.trace), context.files.operation("put"):
            order = put_order(
                put.file_id, put.saga_id, put.new, Expected(put.sha256, put.md5), settle_late=put.settle_late
            )
            body = Body.whole(put.content, max_bytes=context.limits.max_file_bytes)
            result = await PutOperation(context.store, order, body).run()
        return GroupedResult(201 if result.created else 200, result.encoded)
    except ArtStoreError as error:
        refusal = error
    except Exception as error:  # the edge of one file: a defect that it meets must not fail the others
        log.error("put failed", file_id=put.file_id, error=repr(error), exc_info=True)
        refusal = InternalError()
    return GroupedResult(refusal.status, refusal.to_wire(put.request_id))


def _traced(headers: dict[str, str]) -> AbstractContextManager[object]:
    """As at the edge: a span only where it is exported."""
    if exports():
        return server_span("put", headers)
    continue_trace(headers.get("traceparent", ""), headers.get("tracestate", ""), trace_id.get())
    return nullcontext()

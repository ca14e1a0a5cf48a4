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
from artstore.errors import ArtStoreError, InternalError, StorageFull
from artstore.http.body import read_body
from artstore.http.data_routes import note_file
from artstore.logs import get_logger, joint_requests, request_id, trace_id
from artstore.modes import Operation
from artstore.tracing import begin_span, continue_trace, entered, exports

from ..core.context import Context, context_of
from ..store.put import PutOperation, PutOrder, PutResult
from ..store.put_together import put_together
from ..store.receive import Body, Expected
from .files import put_order

log = get_logger("element.put_group")

SPAN = "store.put"


async def put_group(request: Request) -> Response:
    context = context_of(request)
    puts = decode_puts(await read_body(request, MAX_PUT_GROUP_BYTES))
    try:
        context.element.require(Operation.CREATE)
        context.store.disk_health.require_writable()
    except ArtStoreError as error:  # of the element, so it answers the request and counts at the caller's breaker
        context.files.operations.labels("put", error.code).inc(len(puts))
        raise
    if len(puts) == 1:
        note_file(request, puts[0].file_id)
    results = await context.store.complete(_put_all(context, puts))
    if any(result.status == StorageFull.status for result in results):
        await context.element.announce_full()
    return Response(encode_group(results), media_type=PUT_GROUP_TYPE)


async def _put_all(context: Context, puts: Sequence[GroupedPut]) -> Sequence[GroupedResult]:
    """Those that were not put together, at once, so that they share the sync of the log and the group of the catalog."""
    if len(puts) == 1:
        return [await _put_one(context, puts[0])]
    results = await _put_together(context, puts)
    alone = [index for index, result in enumerate(results) if result is None]
    put_alone = await asyncio.gather(*(_put_one(context, puts[index]) for index in alone))
    done = dict(zip(alone, put_alone, strict=True))
    return [done[index] if result is None else result for index, result in enumerate(results)]


async def _put_together(context: Context, puts: Sequence[GroupedPut]) -> list[GroupedResult | None]:
    results: list[GroupedResult | None] = [None] * len(puts)
    orders: dict[int, PutOrder] = {}
    for index, put in enumerate(puts):
        try:
            orders[index] = _order(put)
        except ArtStoreError as error:
            results[index] = _refused(context, put, error)
    spans = [begin_span(SPAN, puts[index].trace, _described(puts[index])) for index in orders] if exports() else []
    outcomes = await put_together(context.store, [(order, puts[index].content) for index, order in orders.items()])
    for one in spans:
        one.end()
    created = 0
    for index, outcome in zip(orders, outcomes, strict=True):
        if isinstance(outcome, PutResult):
            created += 1
            results[index] = GroupedResult(201, outcome.encoded)
        elif outcome is not None:
            results[index] = _refused(context, puts[index], outcome)
    context.files.operations.labels("put", "ok").inc(created)
    return results


def _order(put: GroupedPut) -> PutOrder:
    expected = Expected(put.sha256, put.md5)
    return put_order(put.file_id, put.saga_id, put.new, expected, settle_late=put.settle_late)


async def _put_one(context: Context, put: GroupedPut) -> GroupedResult:
    """In a task of its own, so what is logged about the file names the client's request and trace."""
    request_id.set(put.request_id)
    joint_requests.set(())
    try:
        with _traced(put):
            body = Body.whole(put.content, max_bytes=context.limits.max_file_bytes)
            result = await PutOperation(context.store, _order(put), body).run()
    except Exception as error:
        return _refused(context, put, error)
    context.files.operations.labels("put", "ok").inc()
    return GroupedResult(201 if result.created else 200, result.encoded)


def _refused(context: Context, put: GroupedPut, error: Exception) -> GroupedResult:
    if not isinstance(error, ArtStoreError):  # the edge of one file: a defect that it meets must not fail the others
        log.error("put failed", request_id=put.request_id, file_id=put.file_id, error=repr(error), exc_info=error)
        error = InternalError()
    context.files.operations.labels("put", error.code).inc()
    return GroupedResult(error.status, error.to_wire(put.request_id))


def _traced(put: GroupedPut) -> AbstractContextManager[object]:
    """In the trace of the file's upload, which may not be the one of this request."""
    continue_trace(put.trace.get("traceparent", ""), put.trace.get("tracestate", ""), trace_id.get())
    return entered(begin_span(SPAN, put.trace, _described(put))) if exports() else nullcontext()


def _described(put: GroupedPut) -> dict[str, str]:
    return {"artstore.file_id": put.file_id, "artstore.saga_id": put.saga_id, "artstore.request_id": put.request_id}

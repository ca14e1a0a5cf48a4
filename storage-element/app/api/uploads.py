"""/api/uploads: unfinished resumable uploads, for the ingester. artstore.contracts.uploads has the interface."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from artstore.contracts.files import NewFile, canonical_id
from artstore.contracts.storage import ACCOUNT_HEADER
from artstore.contracts.uploads import (
    CHECKSUM_HEADER,
    INTERRUPT,
    LENGTH_HEADER,
    OFFSET_HEADER,
    Complete,
    NewUpload,
    Settle,
    parse_checksum,
    parse_number,
)
from artstore.errors import Malformed, NotFound
from artstore.http.json import JsonResponse, read_json
from artstore.http.lists import Reader, flag, read_parameters
from artstore.modes import Operation

from ..core.context import Context, context_of
from ..store.append import AppendOrder, append
from ..store.finish import complete
from ..store.unfinished import Upload
from .transfer import body_of

_PARAMETERS: dict[str, Reader] = {INTERRUPT: flag}
Order = TypeVar("Order", NewUpload, Complete, Settle)


async def create_upload(request: Request) -> Response:
    context = context_of(request)
    order = await _read(request, NewUpload)
    _require(context, order.new)
    upload = await context.uploads.create(_account(request), order)
    return _state(upload, 201)


async def show_upload(request: Request) -> Response:
    context = context_of(request)
    upload = _find(request)
    if read_parameters(request.query_params.multi_items(), _PARAMETERS).get(INTERRUPT):
        await context.uploads.quiesce(upload)
    return _state(upload)


async def append_upload(request: Request) -> Response:
    context = context_of(request)
    upload = _find(request)
    if not upload.record.committed:
        _require(context, upload.record.new)
    length, checksum = request.headers.get(LENGTH_HEADER), request.headers.get(CHECKSUM_HEADER)
    order = AppendOrder(
        parse_number("Upload-Offset", request.headers.get(OFFSET_HEADER, "")),
        parse_number("Upload-Length", length) if length is not None else None,
        parse_checksum(checksum) if checksum is not None else None,
    )
    await append(context.uploads, upload, order, partial(body_of, request, context.limits))
    return _state(upload)


async def complete_upload(request: Request) -> Response:
    context = context_of(request)
    with context.files.operation("put"):
        upload, order = _find(request), await _read(request, Complete)
        result = await complete(context.uploads, upload, order.saga_id, lambda new: _require(context, new))
    return JsonResponse(result.encoded, 201 if result.created else 200)


async def settle_upload(request: Request) -> Response:
    """Allowed in every mode: the file exists, or nothing of it."""
    upload, order = _find(request), await _read(request, Settle)
    await context_of(request).uploads.settle(upload, order.saga_id, committed=order.committed)
    return _state(upload)


async def remove_upload(request: Request) -> Response:
    await context_of(request).uploads.remove(_find(request))
    return Response(status_code=204)


def _require(context: Context, new: NewFile) -> None:
    """A temporary file must also be able to expire here. Raises ModeForbids."""
    context.element.require(Operation.CREATE)
    if new.retention == "temporary":
        context.element.require(Operation.DELETE)


def _find(request: Request) -> Upload:
    upload_id = canonical_id(request.path_params["upload_id"])
    if upload_id is None:
        raise NotFound("no upload has this id")
    return context_of(request).uploads.find(upload_id, _account(request))


def _account(request: Request) -> str:
    account = request.headers.get(ACCOUNT_HEADER)
    if not account:
        raise Malformed(f"the header {ACCOUNT_HEADER} is missing")
    return account


async def _read(request: Request, kind: type[Order]) -> Order:
    return await read_json(request, kind)


def _state(upload: Upload, status: int = 200) -> Response:
    return JsonResponse(msgspec.json.encode(upload.state()), status)

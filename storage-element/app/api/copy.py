"""POST /api/files/{file_id}/copy: a file that moves here from another element."""

from __future__ import annotations

import dataclasses

from starlette.requests import Request
from starlette.responses import Response

from artstore.contracts.files import Attributes, decode
from artstore.contracts.storage import CopyOrder
from artstore.errors import Malformed, Unavailable
from artstore.http.data_routes import file_id_of
from artstore.http.json import JsonResponse, read_json
from artstore.modes import Operation

from ..core.context import context_of
from ..store.paths import check_file_id
from ..store.put import PutOrder, put
from ..store.receive import Body, Expected

PIECE_BYTES = 256 * 1024
IDLE_TIMEOUT_S = 30.0


class _Given:
    """The access token that the order carries, a token source for the source's peer."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def __call__(self) -> str:
        return self._token

    def invalidate(self, token: str) -> None:
        """The next order brings another."""


async def copy_file(request: Request) -> Response:
    context = context_of(request)
    with context.files.operation("put"):
        file_id = file_id_of(request)
        context.element.require(Operation.CREATE)
        order = await read_json(request, CopyOrder)
        attributes = _attributes_in(order)
        if attributes.file_id != file_id or attributes.moving_to != context.store.element_id:
            raise Malformed("the record does not belong to a file that moves to this element")
        if file_id in context.store.receiving:  # for an earlier request, whose caller has stopped waiting
            raise Unavailable("the file is being copied")
        expected = Expected(sha256=bytes.fromhex(attributes.checksum.removeprefix("sha256:")))
        wanted = PutOrder(file_id, attributes, check_file_id(order.saga_id), expected)
        source = context.peers.to(order.source_id, order.source_url)
        source = dataclasses.replace(source, token=_Given(order.token))
        asked = {"if-match": f'"{attributes.checksum}"'}
        path = f"/api/files/{file_id}/content"
        async with source.stream(path, headers=asked, idle_timeout_s=IDLE_TIMEOUT_S) as content:
            chunks = content.content.iter_chunked(PIECE_BYTES)
            body = Body(chunks, stated_bytes=attributes.size_bytes, max_bytes=attributes.size_bytes)
            result = await put(context.store, wanted, body)
    return JsonResponse(result.encoded, 201 if result.created else 200, {"etag": f'"{result.attributes.revision}"'})


def _attributes_in(order: CopyOrder) -> Attributes:
    try:
        return decode(bytes(order.record))
    except ValueError as error:
        raise Malformed(f"the record cannot be read: {error}") from error

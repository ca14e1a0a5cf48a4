"""/api/files: the data plane. Plain handlers, each with the request's stream to itself."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from artstore.contracts.files import Attributes, Changes, check_new_file, encode
from artstore.contracts.storage import NEW_FILE_HEADER, SAGA_HEADER, decode_new_file
from artstore.errors import InvalidFields, Malformed, RevisionMismatch
from artstore.jsons import JsonResponse, page, read_json

from ..core.context import Context
from ..modes import Operation
from ..store.delete import compensate, delete
from ..store.get import load_attributes, open_file
from ..store.listing import list_files
from ..store.paths import check_file_id
from ..store.put import PutOrder, put
from ..store.update import RewriteOrder, patch, rewrite
from .receiving import body_of, expected_digests
from .sending import FileResponse, chosen_part

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
_REVISION = re.compile(r'"(\d{1,10})"')


async def put_file(request: Request) -> Response:
    context = _context(request)
    with context.files.operation("put"):
        file_id = _file_id(request)
        context.element.require(Operation.CREATE)
        new = decode_new_file(_required(request, NEW_FILE_HEADER))
        check_new_file(new)
        saga_id = check_file_id(_required(request, SAGA_HEADER))
        order = PutOrder(file_id, new, saga_id, expected_digests(request))
        result = await put(context.store, order, body_of(request, context.patience))
    return _record(result.attributes, 201 if result.created else 200)


async def get_file(request: Request) -> Response:
    context = _context(request)
    with context.files.operation("read"):
        attributes, encoded = await load_attributes(context.store, _file_id(request))
    return JsonResponse(encoded, headers=_revision_tag(attributes))


async def patch_file(request: Request) -> Response:
    context = _context(request)
    with context.files.operation("update"):
        file_id = _file_id(request)
        context.element.require(Operation.UPDATE)
        changes = await read_json(request, Changes)
        attributes = await patch(context.store, file_id, changes, _if_revision(request))
        await context.outbox.flush()
    return _record(attributes, 200)


async def put_content(request: Request) -> Response:
    context = _context(request)
    with context.files.operation("update"):
        file_id = _file_id(request)
        context.element.require(Operation.UPDATE)
        order = RewriteOrder(
            file_id, _if_revision(request), request.headers.get("content-type"), expected_digests(request)
        )
        attributes = await rewrite(context.store, order, body_of(request, context.patience))
        await context.outbox.flush()
    return _record(attributes, 200)


async def delete_file(request: Request) -> Response:
    """With a saga id a compensation, which every mode allows: it takes away only what that saga put."""
    context = _context(request)
    with context.files.operation("delete"):
        file_id = _file_id(request)
        saga_id = request.headers.get(SAGA_HEADER)
        if saga_id is not None:
            await compensate(context.store, file_id, check_file_id(saga_id))
        else:
            context.element.require(Operation.DELETE)
            await delete(context.store, file_id, _if_revision(request))
            await context.outbox.flush()
    return Response(status_code=204)


async def get_content(request: Request) -> Response:
    """Also HEAD. The ETag is the checksum, so a Range goes on with the same bytes or is answered 412."""
    context = _context(request)
    with context.files.operation("download"):
        opened = await open_file(context.store, _file_id(request))
        try:
            attributes = opened.attributes
            _require_same(request, attributes)
            part = chosen_part(request.headers.get("range"), attributes.size_bytes)
        except BaseException:
            opened.close()
            raise
        headers = _content_headers(attributes)
        if request.method == "HEAD":
            opened.close()
            return Response(headers={**headers, "content-length": str(attributes.size_bytes)})
        first, last = part if part is not None else (0, attributes.size_bytes - 1)
        if part is not None:
            headers["content-range"] = f"bytes {first}-{last}/{attributes.size_bytes}"
    status = 200 if part is None else 206
    return FileResponse(opened, status, headers, first, last + 1, context.patience.idle_timeout_s)


async def get_files(request: Request) -> Response:
    """Straight from the disk, in the order of its folders; the cursor is the last id."""
    context = _context(request)
    with context.files.operation("list"):
        after = request.query_params.get("cursor", "")
        if after:
            check_file_id(after)
        found, cursor = await context.store.in_thread(list_files, context.store, after, _limit(request))
    return page([_builtin(attributes) for attributes in found], cursor)


def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


def _file_id(request: Request) -> str:
    """In lower case, whatever case it was asked in."""
    return check_file_id(request.path_params["file_id"].lower())


def _required(request: Request, name: str) -> str:
    value = request.headers.get(name)
    if not value:
        raise Malformed(f"the header {name} is missing")
    return value


def _if_revision(request: Request) -> int | None:
    """If-Match: "<revision>" (RFC 9110 §13.1.1); `*` asks only that there is a file, which is asked anyway."""
    value = request.headers.get("if-match", "*").strip()
    if value == "*":
        return None
    found = _REVISION.fullmatch(value)
    if found is None:
        raise Malformed('If-Match here is "<revision>"')
    return int(found.group(1))


def _require_same(request: Request, attributes: Attributes) -> None:
    wanted = request.headers.get("if-match")
    if wanted is not None and wanted.strip() not in ("*", f'"{attributes.checksum}"'):
        raise RevisionMismatch("the file has other bytes by now", revision=attributes.revision)


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_LIMIT):
        raise InvalidFields(f"limit is a number from 1 to {MAX_LIMIT}", fields=["limit"])
    return int(text)


def _record(attributes: Attributes, status: int) -> Response:
    return JsonResponse(encode(attributes), status, _revision_tag(attributes))


def _revision_tag(attributes: Attributes) -> dict[str, str]:
    return {"etag": f'"{attributes.revision}"'}


def _content_headers(attributes: Attributes) -> dict[str, str]:
    return {
        "content-type": attributes.content_type,
        "etag": f'"{attributes.checksum}"',
        "accept-ranges": "bytes",
        "x-artstore-revision": str(attributes.revision),
    }


def _builtin(attributes: Attributes) -> dict[str, Any]:
    fields = {name: getattr(attributes, name) for name in attributes.__struct_fields__ if name != "unknown"}
    return {**attributes.unknown, **fields}

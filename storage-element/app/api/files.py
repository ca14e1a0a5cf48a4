"""/api/files: the data plane. Plain handlers, each of which reads the request's stream itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from artstore.auth.access import principal_of
from artstore.contracts.files import Attributes, Changes, NewFile, check_new_file, encode, is_id
from artstore.contracts.media_type import canonical_type, sendable_type
from artstore.contracts.storage import (
    ACCOUNT_HEADER,
    FILES_HEADER,
    MAX_FILES_READ,
    MOVED_HEADER,
    NEW_FILE_HEADER,
    SAGA_HEADER,
    SMALL_FILE_BYTES,
    FileRead,
    ReadRefused,
    decode_new_file,
    encode_reads,
)
from artstore.errors import ArtStoreError, Malformed, NotFound, RevisionMismatch, UnsupportedHeader
from artstore.http.conditions import if_match, revisions_in
from artstore.http.content_head import FieldsResponse
from artstore.http.data_routes import note_file
from artstore.http.json import JsonResponse, read_json
from artstore.http.lists import DEFAULT_LIMIT, Reader, limit, read_parameters
from artstore.http.ranges import choose_range
from artstore.modes import Operation

from ..core.context import context_of
from ..store.delete import compensate, delete
from ..store.get import WholeFile, list_files, load_attributes, open_file, read_whole_files
from ..store.paths import check_file_id
from ..store.put import PutOrder, put
from ..store.receive import Expected
from ..store.store import Store
from ..store.update import RewriteOrder, patch, rewrite
from .transfer import FileResponse, body_of, expected_digests, send_limits


def _cursor(value: str) -> str:
    if not is_id(value):
        raise ValueError("must be a next_cursor of this list")
    return value


_LIST_PARAMETERS: dict[str, Reader] = {"limit": limit, "cursor": _cursor}


async def put_file(request: Request) -> Response:
    context = context_of(request)
    with context.files.operation("put"):
        file_id = _file_id(request)
        context.element.require(Operation.CREATE)
        new = decode_new_file(_required(request, NEW_FILE_HEADER))
        order = put_order(file_id, _required(request, SAGA_HEADER), new, expected_digests(request))
        result = await put(context.store, order, body_of(request, context.limits))
    return JsonResponse(result.encoded, 201 if result.created else 200, _revision_tag(result.attributes))


def put_order(file_id: str, saga_id: str, new: NewFile, expected: Expected, *, settle_late: bool = False) -> PutOrder:
    """Raises Malformed, InvalidFields."""
    check_new_file(new)
    content_type = canonical_type(new.content_type)
    if content_type != new.content_type:
        new = msgspec.structs.replace(new, content_type=content_type)
    return PutOrder(check_file_id(file_id), new, check_file_id(saga_id), expected, settle_late)


async def get_file(request: Request) -> Response:
    context = context_of(request)
    with context.files.operation("read"):
        attributes, encoded = await load_attributes(context.store, _file_id(request))
    headers = _revision_tag(attributes)
    unconfirmed = context.store.unconfirmed.get(attributes.file_id)
    if unconfirmed is not None:
        headers[SAGA_HEADER] = unconfirmed.saga_id
    return JsonResponse(encoded, headers=headers)


async def patch_file(request: Request) -> Response:
    context = context_of(request)
    with context.files.operation("update"):
        file_id = _file_id(request)
        context.element.require(Operation.UPDATE)
        changes = await read_json(request, Changes)
        attributes = await patch(
            context.store, file_id, changes, await _if_revision(request, context.store, file_id), _account(request)
        )
        await context.invalidation.invalidate(file_id, attributes.revision, "update")
    return _record(attributes, 200)


async def put_content(request: Request) -> Response:
    context = context_of(request)
    with context.files.operation("update"):
        file_id = _file_id(request)
        context.element.require(Operation.UPDATE)
        order = RewriteOrder(
            file_id,
            await _if_revision(request, context.store, file_id),
            canonical_type(stated) if (stated := request.headers.get("content-type")) else None,
            _account(request),
            expected_digests(request),
        )
        attributes = await rewrite(context.store, order, body_of(request, context.limits))
        await context.invalidation.invalidate(file_id, attributes.revision, "update")
    return _record(attributes, 200)


async def delete_file(request: Request) -> Response:
    """With a saga id a compensation, which every mode allows: it removes only a file that this saga put."""
    context = context_of(request)
    with context.files.operation("delete"):
        file_id = _file_id(request)
        saga_id = request.headers.get(SAGA_HEADER)
        if saga_id is not None:
            if "if-match" in request.headers:
                raise UnsupportedHeader("If-Match is not supported in a compensation (with a saga id)")
            await compensate(context.store, file_id, check_file_id(saga_id))
        else:
            moved_to = request.headers.get(MOVED_HEADER)
            if moved_to is None:
                context.element.require(Operation.DELETE)
            if_revision = await _if_revision(request, context.store, file_id)
            account = "" if moved_to is not None else _account(request)  # a moved file is not deleted
            last = await delete(context.store, file_id, if_revision, account, moved_to=moved_to)
            await context.invalidation.invalidate(file_id, last, "delete")
    return Response(status_code=204)


async def get_content(request: Request) -> Response:
    """Also HEAD. The ETag is the checksum, so a Range continues with the same bytes or is answered 412."""
    context = context_of(request)
    with context.files.operation("download"):
        opened = await open_file(context.store, _file_id(request))
        try:
            attributes = opened.attributes
            _require_same(request, attributes)
            asked = _asked_range(request, attributes)
            part = choose_range(asked, attributes.size_bytes) if asked is not None else None
        except BaseException:
            opened.close()
            raise
        headers = _content_headers(attributes)
        if request.method == "HEAD":
            opened.close()
            return FieldsResponse(200, _encoded(headers, attributes.size_bytes))
        first, last = part if part is not None else (0, attributes.size_bytes - 1)
        if part is not None:
            headers["content-range"] = f"bytes {first}-{last}/{attributes.size_bytes}"
    status = 200 if part is None else 206
    limits = send_limits(request, context.limits.rate)
    fields = _encoded(headers, last + 1 - first)
    return FileResponse(opened, status, fields, first, last + 1, limits, context.upkeep.suspect)


async def get_contents(request: Request) -> Response:
    """Several small files, for a module that many clients ask at once. An error about one file is part of the answer."""
    context = context_of(request)
    file_ids = [check_file_id(text) for text in _required(request, FILES_HEADER).lower().split(",")]
    if len(file_ids) > MAX_FILES_READ:
        raise Malformed(f"{FILES_HEADER} names {len(file_ids)} files, the limit is {MAX_FILES_READ}")
    if len(file_ids) == 1:
        note_file(request, file_ids[0])
    reads: list[FileRead | ReadRefused | None] = []
    for read in await read_whole_files(context.store, file_ids, SMALL_FILE_BYTES):
        error = context.serving.explain(read) if isinstance(read, NotFound) else read
        if isinstance(error, ArtStoreError):
            context.files.operations.labels("download", error.code).inc()
            reads.append(ReadRefused(error.status, error.to_wire()))
        elif isinstance(read, WholeFile):
            context.files.operations.labels("download", "ok").inc()
            reads.append(FileRead(read.encoded, read.content, read.attributes.file_id in context.store.unconfirmed))
        else:
            reads.append(None)
    return Response(encode_reads(reads), media_type="application/msgpack")


async def get_files(request: Request) -> Response:
    """Read from the disk, in the order of its folders; the cursor is the last id."""
    context = context_of(request)
    with context.files.operation("list"):
        asked = read_parameters(request.query_params.multi_items(), _LIST_PARAMETERS)
        after, most = asked.get("cursor", ""), asked.get("limit", DEFAULT_LIMIT)
        found, cursor = await context.store.scan_in_thread(list_files, context.store, after, most)
    # msgspec instead of orjson: an attr.json written by hand may contain integers of any length, which must
    # not fail the page.
    return JsonResponse(msgspec.json.encode({"items": [_builtin(one) for one in found], "next_cursor": cursor}))


def _file_id(request: Request) -> str:
    """In lower case, whatever the case in the path."""
    return check_file_id(request.path_params["file_id"].lower())


def _account(request: Request) -> str:
    """The account for the audit log: the one that the caller acts for, or else the caller."""
    return request.headers.get(ACCOUNT_HEADER) or principal_of(request).subject


def _required(request: Request, name: str) -> str:
    value = request.headers.get(name)
    if not value:
        raise Malformed(f"the header {name} is missing")
    return value


async def _if_revision(request: Request, store: Store, file_id: str) -> int | None:
    """The revision that If-Match requires, to be compared under the file's lock. Raises RevisionMismatch when
    none can match."""
    tags = if_match(request.headers.getlist("if-match"))
    if tags is None:
        return None
    revisions = revisions_in(tags)
    if len(revisions) == 1:
        return revisions[0]
    attributes, _ = await load_attributes(store, file_id)
    if attributes.revision not in revisions:
        raise RevisionMismatch(f"the file is at revision {attributes.revision}", revision=attributes.revision)
    return attributes.revision


def _require_same(request: Request, attributes: Attributes) -> None:
    tags = if_match(request.headers.getlist("if-match"))
    if tags is not None and f'"{attributes.checksum}"' not in tags:
        raise RevisionMismatch("the file has other bytes now", revision=attributes.revision)


def _asked_range(request: Request, attributes: Attributes) -> str | None:
    """Range applies to GET only, and with If-Range only to the same bytes (RFC 9110 §14.2, §13.1.5)."""
    same = request.headers.get("if-range") in (None, f'"{attributes.checksum}"')
    return request.headers.get("range") if request.method == "GET" and same else None


def _record(attributes: Attributes, status: int) -> Response:
    return JsonResponse(encode(attributes), status, _revision_tag(attributes))


def _revision_tag(attributes: Attributes) -> dict[str, str]:
    return {"etag": f'"{attributes.revision}"'}


def _content_headers(attributes: Attributes) -> dict[str, str]:
    return {
        "content-type": sendable_type(attributes.content_type),
        "etag": f'"{attributes.checksum}"',
        "accept-ranges": "bytes",
        "x-artstore-revision": str(attributes.revision),
    }


def _encoded(headers: Mapping[str, str], length: int) -> list[tuple[bytes, bytes]]:
    fields = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return [*fields, (b"content-length", b"%d" % length)]


def _builtin(attributes: Attributes) -> dict[str, Any]:
    fields = {name: getattr(attributes, name) for name in attributes.__struct_fields__ if name != "unknown"}
    return {**attributes.unknown, **fields}

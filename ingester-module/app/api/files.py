"""PATCH and DELETE /api/files/{file_id}, PUT /api/files/{file_id}/content."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from artstore.audit.event import Event
from artstore.audit.writer import AuditWriter
from artstore.auth.access import principal_of
from artstore.clock import uuid7
from artstore.contracts.files import Attributes, Changes, canonical_id, check_changes
from artstore.contracts.holds import holds
from artstore.contracts.idempotency import GONE, Answer, accepted, changed
from artstore.errors import InvalidFields, Malformed, NotFound, RevisionMismatch, UnsupportedMediaType
from artstore.http.conditions import checksums_in, if_match, revisions_in
from artstore.http.json import check_keys, without_bom

from ..changes import change
from ..changes.queue import Queued
from ..changes.wish import Wish
from ..core.context import Context
from ..idempotency.change import Change, change_once, delete_again, update_again
from ..idempotency.fingerprint import of_content, of_delete, of_patch
from ..idempotency.header import key_of
from ..idempotency.replay import again, first, hashed, require_same
from ..uploads.body import FORM, Body, media_type, open_raw, stated_type
from ..uploads.receive import Received

MAX_PATCH_BYTES = 64 * 1024
PATCH_TYPES = frozenset({"application/json", "application/merge-patch+json"})


async def patch_file(request: Request) -> Response:
    context: Context = request.app.state.context
    key = key_of(request)
    with context.files.operation("update"):
        wanted = await _read_changes(request, context)
        wish = _wish(request)
        run = partial(_patched, context, msgspec.json.encode(wanted))
        if key is None:
            return first(await run(wish))

        async def made(now: Attributes) -> bool:
            return holds(now, wanted)

        once = Change(of_patch(wish, wanted), run, partial(update_again, context, run, made))
        answer, given_before = await change_once(context, key, wish, once)
    return again(answer) if given_before else first(answer)


async def replace_content(request: Request) -> Response:
    context: Context = request.app.state.context
    key = key_of(request)
    with context.files.operation("update"):
        if media_type(request) == FORM:
            raise UnsupportedMediaType("new content is sent as the raw body, not as a form")
        body = open_raw(request, context.limits, context.clock)
        wish, content_type = _wish(request, of_content=True), stated_type(request)
        run = partial(_replaced, context, body, content_type)
        if key is None:
            return first(await run(wish))

        async def made(now: Attributes) -> bool:
            same_type = content_type in (None, now.content_type)
            return same_type and await hashed(body) == (now.checksum, now.size_bytes)

        once = Change(of_content(wish, content_type), run, partial(update_again, context, run, made))
        answer, given_before = await change_once(context, key, wish, once)
        if given_before:
            await require_same(body, answer)
    return again(answer) if given_before else first(answer)


async def delete_file(request: Request) -> Response:
    context: Context = request.app.state.context
    key = key_of(request)
    with context.files.operation("delete"):
        wish = _wish(request)
        note = partial(_note_deletion, request.app.state.runtime.audit)
        run = partial(_deleted, context, note)
        if key is None:
            return first(await run(wish))
        once = Change(of_delete(wish), run, partial(delete_again, run, note))
        answer, given_before = await change_once(context, key, wish, once)
    return again(answer) if given_before else first(answer)


async def _patched(context: Context, changes: bytes, wish: Wish) -> Answer:
    answer = await change.patch(context, wish, changes)
    if isinstance(answer, Queued):
        return accepted(answer.saga_id, answer.saga)
    return changed(answer.body, answer.headers["etag"])


async def _replaced(context: Context, body: Body, content_type: str | None, wish: Wish) -> Answer:
    headers = {"content-type": content_type} if content_type else {}
    answer = await change.replace(context, wish, body, headers)
    return changed(answer.body, answer.headers["etag"])


async def _deleted(context: Context, note: Callable[[Wish], Awaitable[None]], wish: Wish) -> Answer:
    queued = await change.delete(context, wish)
    if queued is not None:
        return accepted(queued.saga_id, queued.saga)  # admin notes the deletion when it is made
    # A crash before this leaves a deletion that nobody was told of; after it the event is safe, whatever is away.
    await note(wish)
    return GONE


async def _note_deletion(audit: AuditWriter, wish: Wish) -> None:
    await audit.record(Event("file.delete", wish.owner, f"files/{wish.file_id}"))


async def _read_changes(request: Request, context: Context) -> Changes:
    if media_type(request) not in PATCH_TYPES:
        raise UnsupportedMediaType("changes are sent as application/json")
    received = Received(request, context.limits, max_bytes=MAX_PATCH_BYTES, clock=context.clock)
    pieces = []
    while piece := await received.next():
        pieces.append(piece)
    body = without_bom(b"".join(pieces))
    check_keys(body)
    try:
        wanted = msgspec.json.decode(body, type=Changes)
    except msgspec.ValidationError as error:
        raise InvalidFields(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed("the body is not JSON") from error
    check_changes(wanted)
    return wanted


def _file_id(request: Request) -> str:
    """In the canonical form. What is no UUID is the id of no file."""
    file_id = canonical_id(request.path_params["file_id"])
    if file_id is None:
        raise NotFound("no file has such an id")
    return file_id


def _wish(request: Request, *, of_content: bool = False) -> Wish:
    """`of_content`: If-Match may hold the ETag of the content as well. Raises NotFound, Malformed, and RevisionMismatch
    when no tag can match."""
    file_id = _file_id(request)
    tags = if_match(request.headers.getlist("if-match"))
    revisions = None if tags is None else tuple(sorted(revisions_in(tags)))
    checksums = tuple(sorted(checksums_in(tags))) if tags is not None and of_content else ()
    if revisions == () and not checksums:
        raise RevisionMismatch('If-Match must hold the ETag of the file, such as "3"')
    return Wish(str(uuid7()), file_id, principal_of(request).client_id, revisions, checksums)

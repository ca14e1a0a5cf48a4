"""Begins a resumable upload on an element, and passes the bytes of its requests on."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import Request

from artstore.auth.access import principal_of
from artstore.clock import Clock
from artstore.contracts.elements import Element
from artstore.contracts.files import NewFile
from artstore.contracts.uploads import NewUpload, UploadState
from artstore.errors import ArtStoreError, ModeForbids, TooLarge, Unavailable
from artstore.logs import get_logger

from ..core.context import Context
from ..placement import candidates
from ..uploads.body import FLUSH_EVERY_S, PIECE_BYTES
from ..uploads.form import new_file
from ..uploads.reader import BodyReader
from ..uploads.upload import ELEMENT_ERRORS, MAX_ELEMENTS
from .elements import Place
from .headers import length_in, parse_metadata

log = get_logger("ingester.resumable")

_NO_NAME = "-"
"""Stands for the name while the description is checked; the element names the file by its id."""


async def create(context: Context, request: Request) -> tuple[Place, UploadState]:
    """Raises Malformed, InvalidFields, TooLarge, TooManyUploads, StorageFull, Unavailable."""
    principal = principal_of(request)
    length, max_bytes = length_in(request), context.limits.max_file_bytes
    if length is not None and length > max_bytes:
        raise TooLarge(f"larger than the limit of {max_bytes} bytes for a file", limit_bytes=max_bytes)
    metadata = request.headers.get("upload-metadata", "")
    new = _described(context, metadata, principal.client_id)
    order = NewUpload(new=new, length=length, metadata=metadata)
    elements = _elements_for(context, new, length)
    while True:
        element = elements.pop(0)
        try:
            state = await context.uploads.create(element, principal.subject, order)
            return Place(element, state.upload_id, principal.subject), state
        except ELEMENT_ERRORS as error:
            if not elements:
                raise _for_client(element, error) from error
            log.warning("element failed, trying the next", element=element.id, error=error.detail)


async def append(context: Context, request: Request, place: Place, offset: int) -> UploadState:
    """Raises UploadLocked, Conflict, ChecksumMismatch, TooLarge, Malformed, TooSlow, ModeForbids, StorageFull, Unavailable."""
    reader = BodyReader(request, context.limits, max_bytes=context.limits.max_file_bytes, clock=context.clock)
    return await context.uploads.append(
        place,
        offset,
        _pieces_of(reader, context.clock),
        reader.length_bytes,
        length=request.headers.get("upload-length"),
        checksum=request.headers.get("upload-checksum"),
    )


async def _pieces_of(reader: BodyReader, clock: Clock) -> AsyncIterator[bytes]:
    """The body in pieces that are worth a write. A body that breaks off gives its last bytes too, before its error."""
    waiting: list[bytes] = []
    size, given_s = 0, clock.monotonic_s()
    failure: ArtStoreError | None = None
    more = True
    while more:
        try:
            chunk = await reader.next_chunk()
        except ArtStoreError as error:
            failure, chunk = error, b""
        more = bool(chunk)
        waiting.append(chunk)
        size += len(chunk)
        if size and (not more or size >= PIECE_BYTES or clock.monotonic_s() - given_s >= FLUSH_EVERY_S):
            yield b"".join(waiting)
            waiting, size, given_s = [], 0, clock.monotonic_s()
    if failure is not None:
        raise failure


def _described(context: Context, metadata: str, owner: str) -> NewFile:
    fields, content_type = parse_metadata(metadata)
    named = "filename" in fields
    new = new_file(fields, filename=_NO_NAME, content_type=content_type, owner=owner, now=context.clock.now())
    if named:
        return new
    return NewFile(
        filename="",
        content_type=new.content_type,
        owner=new.owner,
        tags=new.tags,
        metadata=new.metadata,
        retention=new.retention,
        expires_at=new.expires_at,
    )


def _elements_for(context: Context, new: NewFile, length: int | None) -> list[Element]:
    known = context.discovery.elements
    broken = [element.id for element in known if context.elements.breaker_open(element)]
    return candidates(known, size_bytes=length, retention=new.retention, broken=broken)[:MAX_ELEMENTS]


def _for_client(element: Element, error: ArtStoreError) -> ArtStoreError:
    """The client did not choose the element, so a mode that has just changed is answered 503."""
    if isinstance(error, ModeForbids):
        return Unavailable(f"{element.id} was closed a moment ago: send it again", away=element.id)
    return error

"""The body of an upload, raw or multipart: the description of the file, its first bytes, and the rest.

The first BUFFER_BYTES are read before anything else happens, so that a small body is complete, checked and can be sent again.
The last piece of a larger one is held back until the request has ended properly: an element never gets the end of a body that
is truncated, malformed or does not match its digest.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from starlette.requests import Request

from artstore.clock import Clock
from artstore.contracts.files import NewFile, Retention
from artstore.contracts.media_type import canonical_type, essence_of
from artstore.contracts.storage import SMALL_FILE_BYTES
from artstore.errors import Malformed
from artstore.http.body import BodyLimits
from artstore.http.digests import Digest, digests_in

from .digests import DigestCheck
from .filename import filename_of, header_text
from .form import check_partial, new_file, provisional, query_fields, stated_retention
from .parts import MAX_AROUND_FILE_BYTES, FormBody
from .reader import BodyReader

FORM = "multipart/form-data"
BUFFER_BYTES = SMALL_FILE_BYTES
"""The size that an element stores in its log directly."""
PIECE_BYTES = 256 * 1024
"""Sent to the element in one write. One piece is held back until the body has ended."""
FLUSH_EVERY_S = 1.0
"""A slow body is sent on in smaller pieces, because the element measures its rate too."""
_PLACEHOLDER = "-"
"""The name of a file that has none yet."""


class _Source(Protocol):
    async def next_piece(self) -> bytes:
        """Bytes of the file; b"" once the whole request was found valid."""


class RawBody:
    """The whole body is the file."""

    def __init__(self, reader: BodyReader, digests: tuple[Digest, ...]) -> None:
        self._reader = reader
        self._check = DigestCheck()
        self._check.expect(digests)

    async def next_piece(self) -> bytes:
        chunk = await self._reader.next_chunk()
        if chunk:
            self._check.add_file(chunk)
        else:
            self._check.finish()
        return chunk


class Body:
    """The file's bytes. `size_bytes` is exact, `at_most_bytes` an upper bound for placement; None when unknown."""

    def __init__(
        self, source: _Source, *, size_bytes: int | None, at_most_bytes: int | None, digests: tuple[Digest, ...]
    ):
        self.size_bytes = size_bytes
        self.at_most_bytes = at_most_bytes
        self.digests = digests
        self.buffered = False
        """The whole file is in memory."""
        self.sent_bytes = 0
        """The bytes that the last run of `pieces` gave, or the size of a buffered body."""
        self._source = source
        self._head: list[bytes] = []
        self._rest_begun = False

    @property
    def replayable(self) -> bool:
        """`pieces` can still give the whole body."""
        return not self._rest_begun

    async def buffer_head(self) -> None:
        """Reads up to BUFFER_BYTES. Raises the source's errors."""
        size = 0
        while size <= BUFFER_BYTES:
            piece = await self._source.next_piece()
            if not piece:
                self.buffered = True
                self.size_bytes = self.at_most_bytes = self.sent_bytes = size
                return
            self._head.append(piece)
            size += len(piece)

    @property
    def buffered_bytes(self) -> bytes:
        return b"".join(self._head)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The file in pieces of about PIECE_BYTES. Raises the source's errors before it gives the last piece."""
        if self.buffered:
            yield self.buffered_bytes
            return
        self.sent_bytes = 0
        kept = b""
        async for piece in merge_chunks(self._all(), PIECE_BYTES, flush_every_s=FLUSH_EVERY_S):
            if kept:
                self.sent_bytes += len(kept)
                yield kept
            kept = piece
        self.sent_bytes += len(kept)
        yield kept

    async def _all(self) -> AsyncIterator[bytes]:
        for piece in self._head:
            yield piece
        self._rest_begun = True
        self._head.clear()
        while piece := await self._source.next_piece():
            yield piece


@dataclass(slots=True)
class UploadRequest:
    """A request whose head was read. `fields` grows while the body is read, if it is a form with parts after the file."""

    body: Body
    fields: dict[str, str]
    filename: str | None
    content_type: str | None
    now: datetime
    fields_complete: bool = True
    """False: more fields may follow a large file."""
    new: NewFile = field(init=False)
    """The checked description, without an owner. A file without a name has a placeholder."""

    def __post_init__(self) -> None:
        """Raises InvalidFields."""
        if self.fields_complete:
            self.new = self._describe(self.fields, self.filename)
        else:
            self.new = self._describe(*provisional(self.fields, self.filename))

    def complete(self) -> NewFile:
        """The description with all fields. Call it when the body has been read. Raises InvalidFields."""
        if not self.fields_complete:
            self.fields_complete, self.new = True, self._describe(self.fields, self.filename)
        return self.new

    @property
    def is_named(self) -> bool:
        return self.filename is not None or "filename" in self.fields

    def _describe(self, fields: Mapping[str, str], filename: str | None) -> NewFile:
        known = _PLACEHOLDER if filename is None else filename
        return new_file(fields, filename=known, content_type=self.content_type, owner="", now=self.now)


Admit = Callable[[Retention | None, int | None], None]
"""Raises the error for a file of this retention (None: not known yet) and size (None: unknown) that cannot be stored."""


async def open_upload(request: Request, limits: BodyLimits, clock: Clock, admit: Admit) -> UploadRequest:
    """Reads the head, before anything is sent to an element. A client that waits for 100-continue is refused without
    sending the body.

    Raises Malformed, InvalidFields, TooLarge, TooManyHeaders, TooSlow, UnsupportedMediaType, DigestMismatch, and errors of
    `admit`, which is called for such a client only.
    """
    fields = query_fields(request.scope["query_string"])
    if media_type(request) == FORM:
        check_partial(fields)
        return await _open_form(request, fields, limits, clock, admit)
    body = open_raw(request, limits, clock)
    disposition = _disposition(request)
    filename = filename_of(disposition) if disposition else None
    upload = UploadRequest(body, fields, filename, content_type_of(request), clock.now())
    if "expect" in request.headers:
        admit(upload.new.retention, body.at_most_bytes)
    await body.buffer_head()
    return upload


def open_raw(request: Request, limits: BodyLimits, clock: Clock) -> Body:
    """The whole body as the file, not read yet. Raises Malformed, TooLarge, UnsupportedMediaType."""
    reader = BodyReader(request, limits, max_bytes=limits.max_file_bytes, clock=clock)
    digests = digests_in(request.headers)
    size = reader.length_bytes
    return Body(RawBody(reader, digests), size_bytes=size, at_most_bytes=size, digests=digests)


async def _open_form(
    request: Request, fields: dict[str, str], limits: BodyLimits, clock: Clock, admit: Admit
) -> UploadRequest:
    max_bytes = limits.max_file_bytes + MAX_AROUND_FILE_BYTES
    reader = BodyReader(request, limits, max_bytes=max_bytes, clock=clock)
    form = FormBody(
        reader,
        request.headers["content-type"],
        fields,
        max_file_bytes=limits.max_file_bytes,
        of_body=digests_in(request.headers),
    )
    if "expect" in request.headers:
        admit(stated_retention(fields), reader.length_bytes)
    part = await form.read_head()
    body = Body(form, size_bytes=None, at_most_bytes=reader.length_bytes, digests=part.digests)
    upload = UploadRequest(body, fields, part.filename, part.content_type, clock.now(), fields_complete=False)
    await body.buffer_head()
    if body.buffered:
        upload.complete()
    return upload


def content_type_of(request: Request) -> str | None:
    """The raw body's type; None when absent, or the form type that curl adds to --data-binary. Raises InvalidFields."""
    if media_type(request) in ("", "application/x-www-form-urlencoded"):
        return None
    return canonical_type(request.headers["content-type"])


def media_type(request: Request) -> str:
    return essence_of(request.headers.get("content-type", ""))


def _disposition(request: Request) -> str | None:
    """Raises Malformed for two headers, because parsers disagree about which one counts."""
    values = [value for name, value in request.scope["headers"] if name == b"content-disposition"]
    if len(values) > 1:
        raise Malformed("there is more than one Content-Disposition header")
    return header_text(values[0]) if values else None


async def merge_chunks(
    source: AsyncIterator[bytes], piece_bytes: int, *, flush_every_s: float | None = None
) -> AsyncIterator[bytes]:
    """The same bytes in pieces of at least `piece_bytes`, except for the last one. Empty input gives no piece.

    With `flush_every_s` a chunk also completes the piece when the last piece was given at least that long ago, so the bytes of
    a slow sender are passed on as they arrive.
    """
    last_s = -math.inf
    waiting: list[bytes] = []
    length = 0
    async for chunk in source:
        if not chunk:
            continue
        waiting.append(chunk)
        length += len(chunk)
        if length >= piece_bytes or (flush_every_s is not None and time.monotonic() - last_s >= flush_every_s):
            last_s = time.monotonic()
            yield waiting[0] if len(waiting) == 1 else b"".join(waiting)
            waiting, length = [], 0
    if waiting:
        yield b"".join(waiting)

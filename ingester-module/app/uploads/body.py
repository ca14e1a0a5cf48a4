"""The body of an upload, raw or multipart, behind one face: what it says of the file, its first bytes, and the rest.

Up to HELD_BYTES are read before anything else happens, so a small body is whole, checked and in memory by then and may be
sent as often as it takes. Of a larger one the last piece is let go only when the request has ended as it must: an
element never gets the end of a body that is cut off, malformed or other than its digest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request

from artstore.clock import Clock
from artstore.contracts.media_type import canonical_type, essence_of
from artstore.errors import Malformed
from artstore.streams import collected

from .digests import Check, Digest, stated
from .filename import filename_of, header_text
from .form import check_alone, new_file, query_fields
from .parts import MAX_AROUND_FILE_BYTES, FormBody
from .receive import BodyLimits, Received

FORM = "multipart/form-data"
HELD_BYTES = 64 * 1024
"""As much as an element takes on its short path."""
PIECE_BYTES = 256 * 1024
"""Handed to the element's socket at once. One piece is held back until the body has ended."""
FLUSH_EVERY_S = 1.0
"""A body that comes slowly reaches the element in smaller pieces: the element measures its rate too."""


class _Source(Protocol):
    async def next_piece(self) -> bytes:
        """Bytes of the file, b"" once all of the request was found sound."""


class RawBody:
    """The whole body is the file."""

    def __init__(self, received: Received, digests: tuple[Digest, ...]) -> None:
        self._received = received
        self._check = Check()
        self._check.expect_of_file(digests)

    async def next_piece(self) -> bytes:
        chunk = await self._received.next()
        if chunk:
            self._check.add_file(chunk)
        else:
            self._check.finish()
        return chunk


class Body:
    """`size_bytes` is exact or None; `at_most_bytes` what placement may count on; None when nobody knows."""

    def __init__(
        self, source: _Source, *, size_bytes: int | None, at_most_bytes: int | None, digests: tuple[Digest, ...]
    ):
        self.size_bytes = size_bytes
        self.at_most_bytes = at_most_bytes
        self.digests = digests
        self.held = False
        """The whole file is in memory."""
        self.sent_bytes = 0
        """What `pieces` has given at its last run, or the whole of a held body."""
        self._source = source
        self._head: list[bytes] = []
        self._rest_begun = False

    @property
    def replayable(self) -> bool:
        """Whether `pieces` can still give all of the body."""
        return not self._rest_begun

    async def hold_head(self) -> None:
        """Reads up to HELD_BYTES. Raises what the source raises."""
        size = 0
        while size <= HELD_BYTES:
            piece = await self._source.next_piece()
            if not piece:
                self.held = True
                self.size_bytes = self.at_most_bytes = self.sent_bytes = size
                return
            self._head.append(piece)
            size += len(piece)

    @property
    def held_bytes(self) -> bytes:
        return b"".join(self._head)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The file in pieces of up to about PIECE_BYTES. Raises what the source raises, before the last piece is given."""
        if self.held:
            yield self.held_bytes
            return
        self.sent_bytes = 0
        kept = b""
        async for piece in collected(self._all(), PIECE_BYTES, flush_every_s=FLUSH_EVERY_S):
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


@dataclass(frozen=True, slots=True)
class Opened:
    """A request whose head has been read: what it says of its file, unchecked, and the body to come."""

    body: Body
    fields: dict[str, str]
    filename: str | None
    content_type: str | None


async def open_upload(request: Request, limits: BodyLimits, clock: Clock) -> Opened:
    """Raises what is wrong with the head before anything is sent to an element: Malformed, InvalidFields, TooLarge,
    TooManyHeaders, TooSlow, UnsupportedMediaType, DigestMismatch."""
    fields = query_fields(request.scope["query_string"])
    check_alone(fields)
    if media_type(request) == FORM:
        return await _open_form(request, fields, limits, clock)
    body = open_raw(request, limits, clock)
    disposition = _disposition(request)
    filename = filename_of(disposition) if disposition else None
    content_type = stated_type(request)
    # All that is known of the file: checked here too, so that a client that waits for 100 is refused without sending it.
    new_file(fields, filename=filename or "-", content_type=content_type, owner="", now=clock.now())
    await body.hold_head()
    return Opened(body, fields, filename, content_type)


def open_raw(request: Request, limits: BodyLimits, clock: Clock) -> Body:
    """The body as a file, nothing of it read yet. Raises Malformed, TooLarge, UnsupportedMediaType."""
    received = Received(request, limits, max_bytes=limits.max_file_bytes, clock=clock)
    digests = stated(request.headers)
    size = received.stated_bytes
    return Body(RawBody(received, digests), size_bytes=size, at_most_bytes=size, digests=digests)


async def _open_form(request: Request, fields: dict[str, str], limits: BodyLimits, clock: Clock) -> Opened:
    max_bytes = limits.max_file_bytes + MAX_AROUND_FILE_BYTES
    received = Received(request, limits, max_bytes=max_bytes, clock=clock)
    form = FormBody(
        received,
        request.headers["content-type"],
        max_file_bytes=limits.max_file_bytes,
        of_body=stated(request.headers),
    )
    part = await form.read_fields(fields)
    body = Body(form, size_bytes=None, at_most_bytes=received.stated_bytes, digests=part.digests)
    await body.hold_head()
    return Opened(body, fields, part.filename, part.content_type)


def stated_type(request: Request) -> str | None:
    """The raw body's content type. curl adds the form type to --data-binary by itself, so it says nothing about the file.

    Raises InvalidFields.
    """
    if media_type(request) in ("", "application/x-www-form-urlencoded"):
        return None
    return canonical_type(request.headers["content-type"])


def media_type(request: Request) -> str:
    return essence_of(request.headers.get("content-type", ""))


def _disposition(request: Request) -> str | None:
    """Raises Malformed for two: parsers disagree about which one counts."""
    values = [value for name, value in request.scope["headers"] if name == b"content-disposition"]
    if len(values) > 1:
        raise Malformed("there is more than one Content-Disposition header")
    return header_text(values[0]) if values else None

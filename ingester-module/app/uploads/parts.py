"""A multipart/form-data body (RFC 7578), read part by part as it arrives; the file's bytes are never collected.

The part `file` must be the last one: what comes after it would be known too late, so it is refused, not ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from artstore.errors import InvalidFields, Malformed, TooManyHeaders, UnsupportedMediaType

from .digests import Check, Digest, stated
from .filename import MAX_HEADER_BYTES, filename_of, header_text
from .form import MAX_FIELD_BYTES, add_field
from .receive import Received, too_large

FILE_PART = "file"
MAX_PARTS = 16
MAX_PART_HEADERS = 8
MAX_BOUNDARY_BYTES = 200
"""RFC 2046 says 70; some clients make longer ones."""
PLAIN_ENCODINGS = frozenset({"", "binary", "8bit", "7bit"})
"""Content-Transfer-Encoding values under which a part's bytes are the bytes themselves (RFC 2045 §6.2)."""
ONCE = frozenset(
    {"content-disposition", "content-type", "content-transfer-encoding", "content-encoding", "content-length"}
)
"""Part headers that may not be repeated: parsers disagree about which one counts."""
MAX_AROUND_FILE_BYTES = 256 * 1024
"""Preamble, fields, part headers and epilogue together."""

_Event: TypeAlias = MultipartSegment | bytes | None
"""Of the parser: the head of a part, bytes of it, None at its end. b"" stands for the end of the body here."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """What the headers of the part `file` say."""

    filename: str | None
    content_type: str | None
    digests: tuple[Digest, ...]


class FormBody:
    """First `read_fields`, then `next_piece` until it gives b"": only then is the whole body sound."""

    def __init__(
        self, received: Received, content_type: str, *, max_file_bytes: int, of_body: tuple[Digest, ...]
    ) -> None:
        """Raises Malformed when the content type has no usable boundary."""
        self._received = received
        self._parser = _parser(content_type)
        self._events: Iterator[_Event] = iter(())
        self._parts = 0
        self._max_file_bytes = max_file_bytes
        self._file_bytes = 0
        self._stated_bytes: int | None = None
        self._check = Check(of_either=of_body)
        self._at_end = False

    async def read_fields(self, fields: dict[str, str]) -> FilePart:
        """Adds the parts before the file to `fields`. Raises Malformed, InvalidFields, TooManyHeaders."""
        while True:
            segment = await self._next_segment()
            if segment is None:
                raise Malformed(f"the form has no part named {FILE_PART}")
            if segment.name == FILE_PART:
                return self._file_part(segment)
            add_field(fields, segment.name or "", await self._text(segment.name or ""))

    async def next_piece(self) -> bytes:
        """Bytes of the file; b"" once the form has ended as it must and its digests match."""
        if self._at_end:
            return b""
        event = await self._next_event()
        if isinstance(event, bytes):
            self._file_bytes += len(event)
            if self._file_bytes > self._max_file_bytes:
                raise too_large(self._max_file_bytes)
            self._check.add_file(event)
            return event
        if self._stated_bytes not in (None, self._file_bytes):
            raise Malformed(
                f"part {FILE_PART} has {self._file_bytes} bytes, its Content-Length is {self._stated_bytes}"
            )
        after = await self._next_segment()
        if after is not None:
            raise Malformed(f"part {(after.name or '')[:64]!r} comes after {FILE_PART}: fields go before it")
        self._check.finish()
        self._at_end = True
        return b""

    def _file_part(self, segment: MultipartSegment) -> FilePart:
        headers = _headers_of(segment)
        digests = stated(headers)
        self._check.expect_of_file(digests)
        self._stated_bytes = _length(headers.get("content-length"))
        return FilePart(filename_of(headers["content-disposition"]), headers.get("content-type") or None, digests)

    async def _text(self, name: str) -> str:
        pieces: list[bytes] = []
        size = 0
        while isinstance(event := await self._next_event(), bytes):
            size += len(event)
            if size > MAX_FIELD_BYTES:
                raise InvalidFields(f"{name[:64]} has more than {MAX_FIELD_BYTES} bytes", fields=[name[:64]])
            pieces.append(event)
        try:
            return b"".join(pieces).decode()
        except UnicodeDecodeError as error:
            raise InvalidFields(f"{name[:64]} is not UTF-8", fields=[name[:64]]) from error

    async def _next_segment(self) -> MultipartSegment | None:
        """The head of the next part; None at the end of the body."""
        event = await self._next_event()
        if not isinstance(event, MultipartSegment):
            return None
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise Malformed(f"a form has {MAX_PARTS} parts at most")
        _refuse_encoded(_headers_of(event))
        return event

    async def _next_event(self) -> _Event:
        while True:
            try:
                for event in self._events:
                    return event
                chunk = await self._received.next()
                if not chunk:
                    self._parser.close()
                    return b""
                if self._received.seen_bytes - len(chunk) - self._file_bytes > MAX_AROUND_FILE_BYTES:
                    raise Malformed(f"a form has {MAX_AROUND_FILE_BYTES} bytes around the file at most")
                self._check.add_body(chunk)
                self._events = self._parser.parse(chunk)
            except ParserLimitReached as error:  # no other limit is set
                raise TooManyHeaders(f"a part has {MAX_PART_HEADERS} headers of {MAX_HEADER_BYTES} bytes") from error
            except MultipartError as error:
                # the first argument only: behind it the library puts what it caught, which is not for a caller
                raise Malformed(f"the form cannot be read: {error.args[0]}") from error


def _parser(content_type: str) -> PushMultipartParser:
    if len(content_type) > MAX_HEADER_BYTES:
        raise TooManyHeaders(f"Content-Type is longer than {MAX_HEADER_BYTES} bytes")
    boundary = parse_options_header(content_type)[1].get("boundary", "")
    if not 0 < len(boundary) <= MAX_BOUNDARY_BYTES or not boundary.isascii():
        raise Malformed("multipart/form-data needs a boundary of 1 to 200 ASCII characters")
    try:
        return PushMultipartParser(
            boundary, max_header_size=MAX_HEADER_BYTES, max_header_count=MAX_PART_HEADERS, header_charset="latin-1"
        )
    except MultipartError as error:
        raise Malformed(f"the boundary cannot be used: {error}") from error


def _headers_of(segment: MultipartSegment) -> dict[str, str]:
    """By lower-case names, read as UTF-8. Raises Malformed when one of ONCE is repeated."""
    headers: dict[str, str] = {}
    for name, value in segment.headerlist:
        lower = name.lower()
        if lower in headers and lower in ONCE:
            raise Malformed(f"a part has more than one {name[:64]} header")
        headers[lower] = header_text(value.encode("latin-1")).strip(" \t")
    return headers


def _refuse_encoded(headers: dict[str, str]) -> None:
    """Raises UnsupportedMediaType: bytes that the sender has encoded would be stored as they came."""
    transfer = headers.get("content-transfer-encoding", "").lower()
    if transfer not in PLAIN_ENCODINGS:
        raise UnsupportedMediaType(
            f"Content-Transfer-Encoding {transfer[:32]!r} is not supported in a form (RFC 7578 §4.7): send binary"
        )
    coding = headers.get("content-encoding", "").lower()
    if coding not in ("", "identity"):
        raise UnsupportedMediaType(f"Content-Encoding {coding[:32]!r} of a part is not supported: send the plain bytes")
    if "transfer-encoding" in headers:
        raise UnsupportedMediaType("Transfer-Encoding of a part is not supported: send the plain bytes")
    if "content-range" in headers:
        raise Malformed("Content-Range is not supported: a part carries whole content")


def _length(stated: str | None) -> int | None:
    """Content-Length of a part, which some clients send. Raises Malformed."""
    if stated is None:
        return None
    if not (stated.isascii() and stated.isdigit() and len(stated) < 20):
        raise Malformed("the Content-Length of a part must be a number")
    return int(stated)

"""Reads a multipart/form-data body (RFC 7578) part by part as it arrives, without buffering the file.

Fields may come before and after the part `file`.
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
from artstore.http.digests import Digest, digests_in

from .digests import DigestCheck
from .filename import MAX_HEADER_BYTES, filename_of, header_text
from .form import FIELDS, MAX_FIELD_BYTES, MAX_PARTS, add_field
from .reader import BodyReader, too_large

FILE_PART = "file"
MAX_PART_HEADERS = 8
MAX_BOUNDARY_BYTES = 200
"""RFC 2046 allows 70; some clients use longer ones."""
PLAIN_ENCODINGS = frozenset({"", "binary", "8bit", "7bit"})
"""Content-Transfer-Encoding values that leave the bytes as they are (RFC 2045 §6.2)."""
ONCE = frozenset(
    {"content-disposition", "content-type", "content-transfer-encoding", "content-encoding", "content-length"}
)
"""Part headers that may not be repeated, because parsers disagree about which one counts."""
MAX_AROUND_FILE_BYTES = 256 * 1024
"""Preamble, fields, part headers and epilogue together."""

Event: TypeAlias = MultipartSegment | bytes | None
"""From the parser: the head of a part, its bytes, None at its end. b"" is added here for the end of the body."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """The headers of the part `file`."""

    filename: str | None
    content_type: str | None
    digests: tuple[Digest, ...]


class FormBody:
    """Call `read_head`, then `next_piece` until it returns b"": only then is the whole body valid, and `fields` complete."""

    def __init__(
        self,
        reader: BodyReader,
        content_type: str,
        fields: dict[str, str],
        *,
        max_file_bytes: int,
        of_body: tuple[Digest, ...],
    ) -> None:
        """Raises Malformed without a usable boundary."""
        self.fields = fields
        self._reader = reader
        self._parser = parser_of(content_type)
        self._events: Iterator[Event] = iter(())
        self._parts = 0
        self._max_file_bytes = max_file_bytes
        self._file_bytes = 0
        self._length_bytes: int | None = None
        self._check = DigestCheck(of_either=of_body)
        self._at_end = False

    async def read_head(self) -> FilePart:
        """Adds the parts before the file to `fields`. Raises Malformed, InvalidFields, TooManyHeaders."""
        while True:
            segment = await self._next_segment()
            if segment is None:
                raise Malformed(f"the form must have a part named {FILE_PART}")
            if segment.name == FILE_PART:
                return self._file_part(segment)
            await self._add(segment)

    async def next_piece(self) -> bytes:
        """Bytes of the file; b"" once the form has ended properly and its digests match. Adds the parts after the file to
        `fields`."""
        if self._at_end:
            return b""
        event = await self._next_event()
        if isinstance(event, bytes):
            self._file_bytes += len(event)
            if self._file_bytes > self._max_file_bytes:
                raise too_large(self._max_file_bytes)
            self._check.add_file(event)
            return event
        if self._length_bytes not in (None, self._file_bytes):
            raise Malformed(
                f"part {FILE_PART} has {self._file_bytes} bytes, but its Content-Length is {self._length_bytes}"
            )
        while (segment := await self._next_segment()) is not None:
            if segment.name == FILE_PART:
                raise Malformed(f"the form has more than one part {FILE_PART}: POST /api/files/batch takes several")
            await self._add(segment)
        self._check.finish()
        self._at_end = True
        return b""

    def _file_part(self, segment: MultipartSegment) -> FilePart:
        headers = headers_of(segment)
        digests = digests_in(headers)
        self._check.expect(digests)
        self._length_bytes = _length(headers.get("content-length"))
        return FilePart(filename_of(headers["content-disposition"]), headers.get("content-type") or None, digests)

    async def _add(self, segment: MultipartSegment) -> None:
        name = segment.name or ""
        if name not in FIELDS and segment.filename is not None:
            raise InvalidFields(
                f"the part with the file must be named {FILE_PART}, not {name[:64]!r}", fields=[FILE_PART, name[:64]]
            )
        add_field(self.fields, name, await self._text(name))

    async def _text(self, name: str) -> str:
        pieces: list[bytes] = []
        size = 0
        while isinstance(event := await self._next_event(), bytes):
            size += len(event)
            if size > MAX_FIELD_BYTES:
                raise InvalidFields(f"{name[:64]} is larger than {MAX_FIELD_BYTES} bytes", fields=[name[:64]])
            pieces.append(event)
        try:
            return b"".join(pieces).decode()
        except UnicodeDecodeError as error:
            raise InvalidFields(f"{name[:64]} must be UTF-8", fields=[name[:64]]) from error

    async def _next_segment(self) -> MultipartSegment | None:
        """The head of the next part; None at the end of the body."""
        event = await self._next_event()
        if not isinstance(event, MultipartSegment):
            return None
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise Malformed(f"a form may have at most {MAX_PARTS} parts")
        refuse_encoded(headers_of(event))
        return event

    async def _next_event(self) -> Event:
        while True:
            try:
                for event in self._events:
                    return event
                chunk = await self._reader.next_chunk()
                if not chunk:
                    self._parser.close()
                    return b""
                if self._reader.read_bytes - len(chunk) - self._file_bytes > MAX_AROUND_FILE_BYTES:
                    raise Malformed(f"a form may have at most {MAX_AROUND_FILE_BYTES} bytes around the file")
                self._check.add_body(chunk)
                self._events = self._parser.parse(chunk)
            except ParserLimitReached as error:  # no other limit is set
                raise TooManyHeaders(
                    f"a part may have at most {MAX_PART_HEADERS} headers of {MAX_HEADER_BYTES} bytes"
                ) from error
            except MultipartError as error:
                # the first argument only: the second is the exception that the library caught
                raise Malformed(f"the form cannot be read: {error.args[0]}") from error


def parser_of(content_type: str) -> PushMultipartParser:
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
        raise Malformed(f"the boundary is not usable: {error}") from error


def headers_of(segment: MultipartSegment) -> dict[str, str]:
    """By lower-case name, as UTF-8. Raises Malformed when one of ONCE is repeated."""
    headers: dict[str, str] = {}
    for name, value in segment.headerlist:
        lower = name.lower()
        if lower in headers and lower in ONCE:
            raise Malformed(f"a part has more than one {name[:64]} header")
        headers[lower] = header_text(value.encode("latin-1")).strip(" \t")
    return headers


def refuse_encoded(headers: dict[str, str]) -> None:
    """Raises UnsupportedMediaType, because encoded bytes would be stored without decoding."""
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
        raise Malformed("Content-Range is not supported: a part must be whole content")


def _length(header: str | None) -> int | None:
    """Content-Length of a part, which some clients send. Raises Malformed."""
    if header is None:
        return None
    if not (header.isascii() and header.isdigit() and len(header) < 20):
        raise Malformed("the Content-Length of a part must be a number")
    return int(header)

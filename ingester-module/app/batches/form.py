"""Reads the multipart body of a batch: parts `file`, each optionally preceded by a part `attributes`.

There are two kinds of errors. One of the body is raised and fails the whole batch. One of a single file becomes its `fault`;
its bytes are skipped and the next file is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec
from multipart import MultipartError, MultipartSegment, ParserLimitReached
from starlette.requests import Request

from artstore.clock import Clock
from artstore.contracts.files import NewFile
from artstore.contracts.sagas import MAX_BATCH_FILES
from artstore.contracts.storage import SMALL_FILE_BYTES
from artstore.errors import ArtStoreError, InvalidFields, Malformed, TooManyHeaders
from artstore.http.body import BodyLimits
from artstore.http.digests import Digest, digests_in
from artstore.http.json import parse_json

from ..uploads.digests import DigestCheck
from ..uploads.filename import MAX_HEADER_BYTES, filename_of
from ..uploads.form import MAX_FIELD_BYTES, new_file
from ..uploads.parts import FILE_PART, MAX_PART_HEADERS, Event, headers_of, parser_of, refuse_encoded
from ..uploads.reader import BodyReader

ATTRIBUTES_PART = "attributes"
_PLACEHOLDER = "-"
"""The name of a file that has none yet."""


class _Attributes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The part `attributes`. Its members are those of the form of a single upload."""

    filename: str | msgspec.UnsetType = msgspec.UNSET
    tags: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    metadata: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    retention: str | msgspec.UnsetType = msgspec.UNSET
    ttl_days: int | msgspec.UnsetType = msgspec.UNSET


class BatchFile:
    """One part `file`, read as far as `head`: the whole content of a small file. `fault` is set when it cannot be stored."""

    def __init__(self, form: BatchForm, index: int, at_most_bytes: int | None) -> None:
        self.index, self.at_most_bytes = index, at_most_bytes
        self.fault: ArtStoreError | None = None
        self.new: NewFile
        """The checked description, without an owner; set when there is no fault."""
        self.is_named = False
        self.digests: tuple[Digest, ...] = ()
        self.head: list[bytes] = []
        self.size_bytes = 0
        """The size of `head` as it was read."""
        self.whole = False
        """`head` is the whole content."""
        self._form = form
        self._check: DigestCheck | None = None

    def describe(self, segment: MultipartSegment, fields: dict[str, str], clock: Clock) -> None:
        """Raises what is wrong with the part's headers or with the description."""
        headers = headers_of(segment)
        refuse_encoded(headers)
        self.digests = digests_in(headers)
        if self.digests:
            self._check = DigestCheck()
            self._check.expect(self.digests)
        filename = filename_of(headers["content-disposition"])
        self.is_named = filename is not None or "filename" in fields
        self.new = new_file(
            fields,
            filename=_PLACEHOLDER if filename is None else filename,
            content_type=headers.get("content-type") or None,
            owner="",
            now=clock.now(),
        )

    def check(self, piece: bytes) -> None:
        """Hashes a piece, or at the end, which is b"", raises DigestMismatch."""
        if self._check is None:
            return
        if piece:
            self._check.add_file(piece)
        else:
            self._check.finish()

    async def next_piece(self) -> bytes:
        """The content from its beginning; b"" at its end. Raises DigestMismatch, and the errors of the body."""
        if self.head:
            return self.head.pop(0)
        if self.whole:
            return b""
        piece = await self._form.next_piece(self)
        self.check(piece)
        self.whole = not piece
        return piece


class BatchForm:
    """Call `next_file` until it returns None: only then was the whole body valid."""

    def __init__(self, request: Request, limits: BodyLimits, clock: Clock) -> None:
        """Nothing is read yet. Raises Malformed without a usable boundary, TooLarge, LengthRequired."""
        self._reader = BodyReader(request, limits, max_bytes=limits.max_file_bytes, clock=clock)
        self._parser = parser_of(request.headers["content-type"])
        self._clock = clock
        self._events: Iterator[Event] = iter(())
        self._chunk_bytes = 0
        self._in_part = False
        self._current: BatchFile | None = None
        self._lock = asyncio.Lock()
        """A transfer that has failed may still be waiting for a piece of its file."""
        self.count = 0
        self.failure: BaseException | None = None
        """The error of the body, which may have been raised inside of a transfer."""

    async def next_file(self) -> BatchFile | None:
        """The next file, or None at the proper end of the body. The rest of the file before it is skipped.

        Raises Malformed, InvalidFields (too many files), TooLarge, TooSlow, TooManyHeaders.
        """
        async with self._lock:
            self._current = None
            await self._skip_part()
            segment = await self._next_segment()
            fields: dict[str, str] | InvalidFields = {}
            if segment is not None and segment.name == ATTRIBUTES_PART:
                fields = await self._read_attributes(segment)
                segment = await self._next_segment()
                if segment is None or segment.name != FILE_PART:
                    raise Malformed(
                        f"a part {ATTRIBUTES_PART} must be followed by the part {FILE_PART} that it describes"
                    )
            if segment is None:
                if not self.count:
                    raise Malformed(f"the form must have a part named {FILE_PART}")
                return None
            if segment.name != FILE_PART:
                raise Malformed(
                    f"unknown part {(segment.name or '')[:64]!r}; a batch has parts {ATTRIBUTES_PART} and {FILE_PART}"
                )
            return await self._read_file(segment, fields)

    async def next_piece(self, file: BatchFile) -> bytes:
        """The next bytes of `file`, which must be the latest one; b"" at its end."""
        async with self._lock:
            if self._current is not file:
                raise Malformed("the form was read further")  # by the batch, after the transfer had failed
            event = await self._next_event()
            return event if isinstance(event, bytes) else b""

    async def _read_file(self, segment: MultipartSegment, fields: dict[str, str] | InvalidFields) -> BatchFile:
        if self.count == MAX_BATCH_FILES:
            raise InvalidFields(f"a batch may have at most {MAX_BATCH_FILES} files", fields=[FILE_PART])
        length_bytes, before_bytes = self._reader.length_bytes, self._reader.read_bytes - self._chunk_bytes
        file = BatchFile(self, self.count, None if length_bytes is None else length_bytes - before_bytes)
        self.count += 1
        try:
            if isinstance(fields, InvalidFields):
                raise fields
            file.describe(segment, fields, self._clock)
        except ArtStoreError as error:
            file.fault = error
            return file
        self._current = file
        while file.size_bytes <= SMALL_FILE_BYTES:
            event = await self._next_event()
            piece = event if isinstance(event, bytes) else b""
            try:
                file.check(piece)
            except ArtStoreError as error:
                file.fault = error
            if not piece:
                file.whole = True
                break
            file.head.append(piece)
            file.size_bytes += len(piece)
        return file

    async def _read_attributes(self, segment: MultipartSegment) -> dict[str, str] | InvalidFields:
        """The fields, or the reason why they cannot be read."""
        pieces: list[bytes] = []
        size = 0
        while isinstance(event := await self._next_event(), bytes):
            size += len(event)
            if size <= MAX_FIELD_BYTES:
                pieces.append(event)
        try:
            refuse_encoded(headers_of(segment))
            if size > MAX_FIELD_BYTES:
                raise InvalidFields(f"larger than {MAX_FIELD_BYTES} bytes")
            return _texts(parse_json(b"".join(pieces), _Attributes))
        except ArtStoreError as error:
            return InvalidFields(f"{ATTRIBUTES_PART}: {error.detail}", fields=[ATTRIBUTES_PART])
        except UnicodeDecodeError:
            return InvalidFields(f"{ATTRIBUTES_PART} must be UTF-8", fields=[ATTRIBUTES_PART])

    async def _skip_part(self) -> None:
        while self._in_part:
            await self._next_event()

    async def _next_segment(self) -> MultipartSegment | None:
        """The head of the next part; None at the end of the body."""
        event = await self._next_event()
        return event if isinstance(event, MultipartSegment) else None

    async def _next_event(self) -> Event:
        while True:
            try:
                for event in self._events:
                    if not isinstance(event, bytes):
                        self._in_part = event is not None
                    return event
                chunk = await self._reader.next_chunk()
                if not chunk:
                    self._parser.close()
                    return b""
                self._chunk_bytes = len(chunk)
                self._events = self._parser.parse(chunk)
            except ParserLimitReached as error:  # no other limit is set
                self.failure = TooManyHeaders(
                    f"a part may have at most {MAX_PART_HEADERS} headers of {MAX_HEADER_BYTES} bytes"
                )
                raise self.failure from error
            except MultipartError as error:
                # the first argument only: the second is the exception that the library caught
                self.failure = Malformed(f"the form cannot be read: {error.args[0]}")
                raise self.failure from error
            except ArtStoreError as error:
                self.failure = error
                raise


def _texts(given: _Attributes) -> dict[str, str]:
    """As the fields of a single upload's form."""
    return {
        name: bytes(value).decode() if isinstance(value, msgspec.Raw) else str(value)
        for name, value in msgspec.structs.asdict(given).items()
        if value is not msgspec.UNSET
    }

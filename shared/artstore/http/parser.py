"""Parses the requests of a connection, one at a time, over httptools.

It adds two things that uvicorn expects of httptools and that httptools does not do: stop at the end of a
request, and parse the content of a request that offers an Upgrade. The offer is ignored (RFC 9110 §7.8): a
second parser, primed with a head of the same framing, parses the content.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import httptools

from artstore.errors import ArtStoreError, LengthRequired, Malformed, TooManyHeaders
from artstore.http.head import MAX_HEAD_BYTES, WITH_CONTENT, find_framing_fault

MAX_PENDING_BYTES = 64 << 10
"""Limit for an incomplete head, and for trailers and chunk extensions."""
_EMPTY_LINE = b"\r\n\r\n"
"""Ends every head, and every chunked content with its trailers."""
_SHARED = len(_EMPTY_LINE) - 1
_METHOD_OR_LINE_END = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ\r\n")


@dataclass(slots=True)  # a frozen one takes four times as long to make, on every request
class RequestHead:
    """A complete, well-framed request head. Field names are in lower case; `stated_bytes` is Content-Length."""

    method: str
    version: str
    path: bytes
    query: bytes
    fields: list[tuple[bytes, bytes]]
    stated_bytes: int | None
    expects_100: bool
    keep_alive: bool


class Listener(Protocol):
    """Callbacks of the parser, in this order. Start to process a request only after `feed` has returned, even
    if it has ended."""

    def on_head(self, head: RequestHead) -> None: ...
    def on_content(self, content: bytes) -> None: ...
    def on_request_end(self) -> None: ...


class RequestParser:
    """The parser of one connection. `complete`: the current request has been received to its end. `in_head`:
    its head has not."""

    def __init__(self, listener: Listener) -> None:
        self.complete = self.in_head = True
        self._listener = listener
        self._slicer = MessageSlicer()
        self._parser = _new_parser(self)
        self._url = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._head: RequestHead | None = None
        self._fault: ArtStoreError | None = None
        self._framing: bytes | None = None
        """For a request that offers an Upgrade: the head that primes the second parser."""
        self._priming = False
        self._pending_bytes = 0
        self._progress = 0
        """Incremented by each head, piece of content and end."""

    @property
    def in_partial_head(self) -> bool:
        return self.in_head and not self.complete

    def feed(self, data: bytes, at: int) -> tuple[int, bool]:
        """Parses from `at` to the end of the head or of the content, if that has arrived. Returns where it
        stopped, and True if a request can be processed now. Raises the ArtStoreError to end the connection
        with."""
        progress, piece = self._progress, self._slicer.next_slice(data, at)
        end = at + len(piece)
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            end = at + upgrade.args[0]
            if self._fault is None:
                self._parse_content_again()
        except httptools.HttpParserError as error:
            raise self._fault or _malformed(error) from error
        if self._fault is not None:
            raise self._fault
        self._pending_bytes = 0 if progress != self._progress else self._pending_bytes + len(piece)
        if self._pending_bytes > MAX_PENDING_BYTES:
            raise TooManyHeaders(f"the header fields are longer than {MAX_HEAD_BYTES} bytes")
        head, self._head = self._head, None
        if head is not None and self.complete and head.stated_bytes is None and head.method in WITH_CONTENT:
            _check_nothing_follows(data, end)
        return end, head is not None

    def _parse_content_again(self) -> None:
        self._parser = _new_parser(self)
        framing, self._framing, self._priming = self._framing or b"", None, True
        try:
            self._parser.feed_data(framing)
        finally:
            self._priming = False

    # --- called by the parser

    def on_message_begin(self) -> None:
        if not self._priming:
            self._url, self._fields, self._fault = b"", [], None
            self.in_head, self.complete = True, False

    def on_url(self, url: bytes) -> None:
        if not self._priming:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:  # trailers are ignored
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._priming:
            return
        parser, fields = self._parser, self._fields
        self.in_head = False
        self._progress += 1
        method, version = parser.get_method().decode("ascii"), parser.get_http_version()
        length, expects, coded = None, False, False
        for name, value in fields:
            if name == b"content-length":
                length = value
            elif name == b"expect":
                expects = version == "1.1"
            elif name == b"transfer-encoding":
                coded = True
        if coded or version != "1.1" or method == "CONNECT":  # other heads cannot have a framing fault
            self._fault = find_framing_fault(method, version, fields)
            if self._fault is not None:
                return
        target, keep_alive = httptools.parse_url(self._url), parser.should_keep_alive()
        if parser.should_upgrade():
            self._framing = _framing_of(length, coded, keep_alive)
        stated_bytes = None if length is None else int(length)
        self._slicer.content_left = stated_bytes or None
        keep_alive = keep_alive and version != "1.0"
        self._head = RequestHead(
            method, version, target.path, target.query or b"", fields, stated_bytes, expects, keep_alive
        )
        self._listener.on_head(self._head)

    def on_body(self, content: bytes) -> None:
        self._progress += 1
        self._listener.on_content(content)

    def on_message_complete(self) -> None:
        if self._fault is not None or (self._framing is not None and not self._priming):
            return
        self.complete = self.in_head = True
        self._progress += 1
        self._slicer.end_message()
        self._listener.on_request_end()


class MessageSlicer:
    """Cuts received bytes so that no slice reaches beyond the end of a message.

    The parser consumes all it is given and cannot be stopped at the end of a request. So it is given no more
    than one message can hold: content of a stated length up to its last byte, heads and chunked content up to
    the next empty line. `content_left` is set while content of a stated length is being received.
    """

    __slots__ = ("_tail", "content_left")

    def __init__(self) -> None:
        self.content_left: int | None = None
        self._tail = b""
        """The last bytes of the previous slice: the empty line may begin in them."""

    def end_message(self) -> None:
        self.content_left, self._tail = None, b""

    def next_slice(self, data: bytes, at: int) -> bytes:
        """The slice that begins at `at`; at least one byte."""
        if self.content_left is not None:
            end = min(len(data), at + self.content_left)
            self.content_left -= end - at
            self._tail = b""
            return data if end - at == len(data) else data[at:end]
        shared = (self._tail + data[at : at + _SHARED]).find(_EMPTY_LINE) if self._tail else -1
        found = shared + at - len(self._tail) if shared >= 0 else data.find(_EMPTY_LINE, at)
        if found < 0 and shared < 0:
            self._tail = (self._tail + data[max(at, len(data) - _SHARED) :])[-_SHARED:]
            return data if at == 0 else data[at:]
        self._tail = b""
        end = found + len(_EMPTY_LINE)
        return data if end - at == len(data) else data[at:end]


def _new_parser(callbacks: RequestParser) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(callbacks)
    # bytes after a request with Connection: close are not an error of that request
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _framing_of(length: bytes | None, chunked: bool, keep_alive: bool) -> bytes:
    lines = [b"POST / HTTP/1.1"]
    if length is not None:
        lines.append(b"content-length: " + length)
    elif chunked:
        lines.append(b"transfer-encoding: chunked")
    if not keep_alive:
        lines.append(b"connection: close")
    return b"\r\n".join([*lines, b"", b""])


def _check_nothing_follows(data: bytes, at: int) -> None:
    """A request without a length has no content. Bytes that cannot begin a request show that the client sent
    content anyway."""
    if at < len(data) and data[at] not in _METHOD_OR_LINE_END:
        raise LengthRequired("content follows, but neither Content-Length nor Transfer-Encoding is present")


def _malformed(error: Exception) -> Malformed:
    if "PRI/Upgrade" in str(error):
        return Malformed("HTTP/2 is not supported: use HTTP/1.1")
    return Malformed("the data is not an HTTP request")

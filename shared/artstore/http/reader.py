"""Requests out of a connection's bytes, one at a time.

uvicorn leaves two things to the parser that it does not do: to stop at the end of a request, and to read the content of one that
offers an Upgrade. The offer is ignored here (RFC 9110 §7.8): another parser, given the same framing, reads the content.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import httptools

from artstore.errors import ArtStoreError, LengthRequired, Malformed, TooManyHeaders
from artstore.http.extent import Extent
from artstore.http.head import MAX_HEAD_BYTES, WITH_CONTENT, find_framing_fault

MAX_PENDING_BYTES = 64 << 10
"""Of a head that is not complete yet; of trailers and chunk extensions."""
_METHOD_OR_LINE_END = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ\r\n")


@dataclass(slots=True)  # a frozen one takes four times as long to make, on every request
class Head:
    """A complete head within the rules. Field names are in lower case; `stated_bytes` is Content-Length."""

    method: str
    version: str
    path: bytes
    query: bytes
    fields: list[tuple[bytes, bytes]]
    stated_bytes: int | None
    expects_100: bool
    keep_alive: bool


class Listener(Protocol):
    """What a request is found to consist of, in this order. Even one that has ended is carried out only when `feed` returns."""

    def head_came(self, head: Head) -> None: ...
    def content_came(self, content: bytes) -> None: ...
    def request_ended(self) -> None: ...


class RequestReader:
    """Of one connection. `whole`: the last request has been received to its end. `in_head`: its head has not."""

    def __init__(self, listener: Listener) -> None:
        self.whole = self.in_head = True
        self._listener = listener
        self._extent = Extent()
        self._parser = _new_parser(self)
        self._url = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._head: Head | None = None
        self._fault: ArtStoreError | None = None
        self._framing: bytes | None = None
        """Of a request that offers an Upgrade: the head that its content is parsed by."""
        self._priming = False
        self._pending_bytes = 0
        self._progress = 0
        """Grows with each head, each piece of content and each end."""

    @property
    def in_partial_head(self) -> bool:
        return self.in_head and not self.whole

    def feed(self, data: bytes, at: int) -> tuple[int, bool]:
        """Parses from `at` to the end of the head or of the content, if that has come. Returns where it stopped, and whether a
        request is to be carried out now. Raises the error that the connection ends with."""
        progress, piece = self._progress, self._extent.next_slice(data, at)
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
        if head is not None and self.whole and head.stated_bytes is None and head.method in WITH_CONTENT:
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
            self.in_head, self.whole = True, False

    def on_url(self, url: bytes) -> None:
        if not self._priming:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:  # trailers are dropped
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
        if coded or version != "1.1" or method == "CONNECT":  # no other head can have such a fault
            self._fault = find_framing_fault(method, version, fields)
            if self._fault is not None:
                return
        target, keep_alive = httptools.parse_url(self._url), parser.should_keep_alive()
        if parser.should_upgrade():
            self._framing = _framing_of(length, coded, keep_alive)
        stated_bytes = None if length is None else int(length)
        self._extent.content_left = stated_bytes or None
        keep_alive = keep_alive and version != "1.0"
        self._head = Head(method, version, target.path, target.query or b"", fields, stated_bytes, expects, keep_alive)
        self._listener.head_came(self._head)

    def on_body(self, content: bytes) -> None:
        self._progress += 1
        self._listener.content_came(content)

    def on_message_complete(self) -> None:
        if self._fault is not None or (self._framing is not None and not self._priming):
            return
        self.whole = self.in_head = True
        self._progress += 1
        self._extent.end_message()
        self._listener.request_ended()


def _new_parser(callbacks: RequestReader) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(callbacks)
    # what follows a request that ends its connection is no error of that request
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
    """Without a length there is no content. Bytes that cannot begin a request show that the client meant some."""
    if at < len(data) and data[at] not in _METHOD_OR_LINE_END:
        raise LengthRequired("content follows, but neither Content-Length nor Transfer-Encoding is stated")


def _malformed(error: Exception) -> Malformed:
    if "PRI/Upgrade" in str(error):
        return Malformed("HTTP/2 is not supported: use HTTP/1.1")
    return Malformed("the data is not an HTTP request")

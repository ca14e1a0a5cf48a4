"""Validates a request's head, before any of the body is read.

After a framing fault the end of the message is not known, so the connection must end with the refusal. Other
faults are answered by the edge like any error.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from urllib.parse import unquote_to_bytes

from starlette.types import Scope

from artstore.errors import (
    ArtStoreError,
    ExpectationFailed,
    LengthRequired,
    Malformed,
    NotImplementedHere,
    TooManyHeaders,
    UnsupportedMediaType,
    UnsupportedVersion,
    UriTooLong,
)

MAX_URL_BYTES = 8192
MAX_FIELDS = 64
MAX_HEAD_BYTES = 32 << 10
"""Limit for all field names and values together; an access token takes up to 8 KiB of it."""
_VERSIONS = frozenset({"1.0", "1.1"})
WITH_CONTENT = frozenset({"POST", "PUT", "PATCH"})
_WITHOUT_CONTENT = frozenset({"GET", "HEAD", "DELETE"})

_Fields = Iterable[tuple[bytes, bytes]]


def find_framing_fault(method: str, version: str, fields: _Fields) -> ArtStoreError | None:
    """The error for a head that leaves the end of the body unknown or asks for another protocol; None without
    such a fault."""
    if version not in _VERSIONS:
        return UnsupportedVersion("use HTTP/1.1 or HTTP/1.0")
    if method == "CONNECT":
        return NotImplementedHere("CONNECT is not implemented: this server is not a proxy")
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if codings:
        stated = b",".join(codings).strip(b" \t").lower()
        if stated != b"chunked":
            return NotImplementedHere("Transfer-Encoding must be chunked: other codings are not decoded")
        if version == "1.0":
            return Malformed("Transfer-Encoding is not part of HTTP/1.0")
        return None
    if version == "1.0" and method in WITH_CONTENT and not any(name == b"content-length" for name, _ in fields):
        return LengthRequired(f"{method} over HTTP/1.0 needs Content-Length")
    return None


def find_head_fault(scope: Scope) -> ArtStoreError | None:
    """The error for any other invalid head; None for a valid one."""
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_URL_BYTES:
        return UriTooLong(f"the path and the query are longer than {MAX_URL_BYTES} bytes")
    if b"%" in scope["query_string"] and not _is_utf8(scope["query_string"]):
        return Malformed("the query must be percent-encoded UTF-8")
    fields = scope["headers"]
    if len(fields) > MAX_FIELDS:
        return TooManyHeaders(f"the request has more than {MAX_FIELDS} header fields")
    if sum(map(len, chain.from_iterable(fields))) > MAX_HEAD_BYTES:
        return TooManyHeaders(f"the header fields are longer than {MAX_HEAD_BYTES} bytes")
    distinct = dict(fields)
    if not _RULED.isdisjoint(distinct):
        for name, value in fields:
            if (rule := _RULES.get(name)) is not None and (fault := rule(scope, value)) is not None:
                return fault
    if b"host" not in distinct and scope["http_version"] == "1.1":
        return Malformed("send exactly one Host field")
    if len(distinct) < len(fields):
        names = [name for name, _ in fields]
        for name in _SINGLE & distinct.keys():
            if names.count(name) > 1:
                return Malformed(f"send at most one {name.decode()} field")
    return None


def _is_utf8(query: bytes) -> bool:
    """Other bytes would be read as U+FFFD: a search for another text than the client's."""
    try:
        unquote_to_bytes(query).decode()
    except UnicodeDecodeError:
        return False
    return True


def _expect(scope: Scope, value: bytes) -> ArtStoreError | None:
    known = scope["http_version"] == "1.0" or value.strip(b" \t").lower() == b"100-continue"
    return None if known else ExpectationFailed("the only supported expectation is 100-continue")


def _content_encoding(_scope: Scope, value: bytes) -> ArtStoreError | None:
    codings = {coding.strip(b" \t").lower() for coding in value.split(b",")}
    if codings <= {b"identity", b""}:
        return None
    return UnsupportedMediaType("Content-Encoding is not supported: send the content without encoding")


def _content_transfer_encoding(_scope: Scope, value: bytes) -> ArtStoreError | None:
    if value.strip(b" \t").lower() in _PLAIN_ENCODINGS:
        return None
    return UnsupportedMediaType("Content-Transfer-Encoding is not supported: send the plain bytes")


def _content_range(_scope: Scope, _value: bytes) -> ArtStoreError | None:
    return Malformed("Content-Range is not supported: send the complete content")


def _upload_complete(_scope: Scope, value: bytes) -> ArtStoreError | None:
    """The draft of IETF resumable uploads: `?0` announces that the content is only the begin of a file."""
    if value.strip(b" \t") == b"?1":
        return None
    return Malformed("Upload-Complete must be ?1: a file in parts is sent to /api/uploads by tus 1.0")


def _content(scope: Scope, value: bytes) -> ArtStoreError | None:
    if scope["method"] in _WITHOUT_CONTENT and value.strip(b"0") != b"":
        return Malformed(f"{scope['method']} takes no content")
    return None


_SINGLE = frozenset(
    {
        b"host", b"content-type", b"content-disposition", b"content-md5", b"idempotency-key",
        b"range", b"if-range", b"if-modified-since", b"if-unmodified-since",
        b"tus-resumable", b"upload-length", b"upload-defer-length", b"upload-offset", b"upload-metadata",
        b"upload-checksum", b"x-http-method-override",
    }
)  # fmt: skip
"""Fields that are not lists. If one is repeated, each recipient may use a different value. Authorization is
checked in auth/access.py."""
_PLAIN_ENCODINGS = frozenset({b"", b"binary", b"8bit", b"7bit"})
_RULES = {
    b"expect": _expect,
    b"content-encoding": _content_encoding,
    b"content-transfer-encoding": _content_transfer_encoding,
    b"content-range": _content_range,
    b"upload-complete": _upload_complete,
    b"content-length": _content,
    b"transfer-encoding": _content,
}
_RULED = frozenset(_RULES)

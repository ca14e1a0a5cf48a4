"""Response headers of a file's content: RFC 6266 and 8187 (name), 9110 (validators), 9530 (digest)."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from urllib.parse import quote

from starlette.responses import Response

from artstore.contracts.files import Attributes
from artstore.contracts.media_type import sendable_type
from artstore.http.preconditions import Plan, Validators, http_date, validators_of

Fields = tuple[tuple[bytes, bytes], ...]

_CACHE_CONTROL = (b"cache-control", b"private, no-cache")
_ACCEPT_RANGES = (b"accept-ranges", b"bytes")
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
"""Shared by the heads of all files, which stay in memory."""

DISPOSITIONS = ("attachment", "inline")
_DISPOSITION = b"content-disposition"
_SHOWN = re.compile(r"(image/(png|jpeg|gif|webp|avif|bmp)|application/pdf|text/plain|audio/[^;]+|video/[^;]+)(;|$)")
_POLICY = b"content-security-policy"
_PDF_POLICY = (_POLICY, b"frame-ancestors 'none'")
"""Browsers show no PDF in a sandbox, which the edge would add. Scripts in a PDF cannot reach the origin of the page."""
_MEDIA_POLICY = (_POLICY, b"default-src 'none'; media-src 'self'; frame-ancestors 'none'; sandbox allow-same-origin")
"""A browser's player loads audio and video by a second request, from the page around it. Scripts stay forbidden."""
_ATTR_CHAR = "!#$&+-.^_`|~"
"""RFC 8187 §3.2.1 leaves these unencoded, beside letters and digits."""
_UNSAFE_IN_QUOTES = re.compile(r'[^\x20-\x7e]|["\\%]')
"""Outside ASCII, or read differently by different clients (RFC 6266 appendix D)."""


def content_disposition(filename: str) -> str:
    """`attachment` with an ASCII approximation of the name for old clients and the exact name in `filename*`."""
    approximation = _UNSAFE_IN_QUOTES.sub("_", filename)
    exact = quote(filename.encode(errors="replace"), safe=_ATTR_CHAR)
    return f"attachment; filename=\"{approximation}\"; filename*=UTF-8''{exact}"


def as_inline(fields: list[tuple[bytes, bytes]], content_type: str) -> list[tuple[bytes, bytes]]:
    """The headers with `inline` for `attachment`, if a browser may show the type: HTML, SVG and the like run scripts."""
    if not _SHOWN.match(content_type):
        return fields
    shown = [
        (name, value.replace(b"attachment", b"inline", 1) if name == _DISPOSITION else value) for name, value in fields
    ]
    if content_type.startswith("application/pdf"):
        return [*shown, _PDF_POLICY]
    return [*shown, _MEDIA_POLICY] if content_type.startswith(("audio/", "video/")) else shown


def repr_digest(checksum: str) -> str:
    """`sha-256=:<base64>:` from `sha256:<hex>`."""
    digest = bytes.fromhex(checksum.partition(":")[2])
    return f"sha-256=:{base64.b64encode(digest).decode()}:"


@dataclass(frozen=True, slots=True)
class ContentHead:
    """The fields that all responses about one revision share. They are computed once and kept with its record."""

    validators: Validators
    always: Fields
    """The headers of a 304 (RFC 9110 §15.4.5), which the others have too."""
    described: Fields
    """Further headers of a 200 or 206."""
    size_bytes: int

    def fields(self, plan: Plan) -> list[tuple[bytes, bytes]]:
        """The headers of a 200, 206 or 304, with lower-case names."""
        if plan.status == 304:
            return [*self.always]
        if plan.part is None:
            return [*self.always, *self.described, (b"content-length", b"%d" % self.size_bytes)]
        part = b"bytes %d-%d/%d" % (plan.part.first, plan.part.last, self.size_bytes)
        length = (b"content-length", b"%d" % plan.part.length)
        return [*self.always, *self.described, length, (b"content-range", part)]


def head_of(attributes: Attributes) -> ContentHead:
    validators = validators_of(attributes)
    always = (
        (b"etag", validators.etag.encode("latin-1")),
        (b"last-modified", http_date(validators.last_modified).encode()),
        _CACHE_CONTROL,
        _ACCEPT_RANGES,
        (b"content-disposition", content_disposition(attributes.filename).encode()),
    )
    described = (
        (b"content-type", sendable_type(attributes.content_type).encode("latin-1")),
        (b"repr-digest", repr_digest(attributes.checksum).encode()),
        _NO_SNIFFING,
    )
    return ContentHead(validators, always, described, attributes.size_bytes)


class FieldsResponse(Response):
    """A response with encoded headers, which cost half as much as `Response` itself to build."""

    def __init__(self, status: int, fields: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
        self.status_code, self.raw_headers, self.body, self.background = status, fields, body, None

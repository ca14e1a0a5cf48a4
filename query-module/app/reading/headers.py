"""Response headers of a file's content: RFC 6266 and 8187 (name), 9110 (validators), 9530 (digest)."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from urllib.parse import quote

from artstore.contracts.files import Attributes
from artstore.contracts.media_type import sendable_type

from .conditions import Plan, Validators, http_date, validators_of

Fields = tuple[tuple[bytes, bytes], ...]

_ATTR_CHAR = "!#$&+-.^_`|~"
"""RFC 8187 §3.2.1 leaves these unencoded, beside letters and digits."""
_UNSAFE_IN_QUOTES = re.compile(r'[^\x20-\x7e]|["\\%]')
"""Outside ASCII, or read differently by different clients (RFC 6266 appendix D)."""


def content_disposition(filename: str) -> str:
    """`attachment` with an ASCII approximation of the name for old clients and the exact name in `filename*`."""
    approximation = _UNSAFE_IN_QUOTES.sub("_", filename)
    exact = quote(filename.encode(errors="replace"), safe=_ATTR_CHAR)
    return f"attachment; filename=\"{approximation}\"; filename*=UTF-8''{exact}"


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
    always = {
        "etag": validators.etag,
        "last-modified": http_date(validators.last_modified),
        "cache-control": "private, no-cache",
        "accept-ranges": "bytes",
        "content-disposition": content_disposition(attributes.filename),
    }
    described = {
        "content-type": sendable_type(attributes.content_type),
        "repr-digest": repr_digest(attributes.checksum),
        "x-content-type-options": "nosniff",
    }
    return ContentHead(validators, _encode(always), _encode(described), attributes.size_bytes)


def _encode(fields: dict[str, str]) -> Fields:
    return tuple((name.encode(), value.encode("latin-1")) for name, value in fields.items())

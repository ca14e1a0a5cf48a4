"""Response headers of a file's content: RFC 6266 and 8187 (name), 9110 (validators), 9530 (digest)."""

from __future__ import annotations

import base64
import re
from urllib.parse import quote

from artstore.contracts.files import Attributes
from artstore.contracts.media_type import sendable_type

from .conditions import Plan, Validators, http_date

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


def content_headers(attributes: Attributes, validators: Validators, plan: Plan) -> dict[str, str]:
    """All headers of a 200, 206 or 304, with lower-case names. A 304 has those of RFC 9110 §15.4.5 only."""
    headers = {
        "etag": validators.etag,
        "last-modified": http_date(validators.last_modified),
        "cache-control": "private, no-cache",
        "accept-ranges": "bytes",
        "content-disposition": content_disposition(attributes.filename),
    }
    if plan.status == 304:
        return headers
    length = plan.part.length if plan.part else attributes.size_bytes
    headers |= {
        "content-type": sendable_type(attributes.content_type),
        "content-length": str(length),
        "repr-digest": repr_digest(attributes.checksum),
        "x-content-type-options": "nosniff",
    }
    if plan.part:
        headers["content-range"] = f"bytes {plan.part.first}-{plan.part.last}/{attributes.size_bytes}"
    return headers

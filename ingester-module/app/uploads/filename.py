"""The name a Content-Disposition header gives to a file (RFC 6266, RFC 8187; RFC 7578 and WHATWG for form parts)."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from multipart import content_disposition_unquote

from artstore.errors import Malformed, TooManyHeaders

MAX_HEADER_BYTES = 4096
"""255 bytes of name take 765 in percent-encoding, twice that with the plain form beside it."""

_PARAMETER = re.compile(r';\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;"]*)')
_CHARSETS = {"utf-8": "utf-8", "iso-8859-1": "latin-1"}


def filename_of(disposition: str) -> str | None:
    """`filename*` before `filename`; None when the header has neither. Raises Malformed, TooManyHeaders.

    The name is as the sender wrote it, paths and control characters included: the caller checks it.
    """
    if len(disposition) > MAX_HEADER_BYTES:
        raise TooManyHeaders(f"Content-Disposition is longer than {MAX_HEADER_BYTES} bytes")
    plain: str | None = None
    for name, value in _PARAMETER.findall(disposition):
        if name.lower() == "filename*":
            return _extended(value.strip())
        if name.lower() == "filename" and plain is None:
            plain = _percent_decoded(content_disposition_unquote(value.strip()))
    return plain


def header_text(value: bytes) -> str:
    """A header value as text: UTF-8, which most clients send, else Latin-1, which HTTP once said."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _percent_decoded(name: str) -> str:
    """RFC 7578 §4.2 lets senders percent-encode (aiohttp does), most do not: so only what cannot be meant otherwise."""
    if not name.isascii() or "%" not in name:
        return name
    try:
        decoded = unquote_to_bytes(name).decode()
    except UnicodeDecodeError:
        return name
    return name if decoded.isascii() else decoded


def _extended(value: str) -> str:
    charset, _, rest = value.strip('"').partition("'")
    _, quote, encoded = rest.partition("'")
    codec = _CHARSETS.get(charset.lower())
    if not quote or codec is None:
        raise Malformed("filename* is no UTF-8''percent-encoded value")
    try:
        return unquote_to_bytes(encoded).decode(codec)
    except UnicodeDecodeError as error:
        raise Malformed("filename* is not valid in the charset it names") from error

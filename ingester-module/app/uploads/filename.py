"""The filename in Content-Disposition (RFC 6266, RFC 8187, RFC 2047; RFC 7578 and WHATWG for form parts).

`docs/api.md` has a table of the forms that clients send and the names that are stored.
"""

from __future__ import annotations

import base64
import binascii
import quopri
import re
from urllib.parse import unquote_to_bytes

from multipart import content_disposition_unquote

from artstore.errors import Malformed, TooManyHeaders

MAX_HEADER_BYTES = 4096
"""A name of 255 bytes takes 765 in percent-encoding, and twice that with the plain form beside it."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PARAMETER = re.compile(rf';\s*(?:({_TOKEN})\s*=\s*({_QUOTED}\s*|[^;"]*)|[^;"]*)')
"""A parameter, or text without `=`, which is ignored. It must extend to the next semicolon or to the end."""
_CONTINUED = re.compile(r"filename\*\d+\*?")
_CHARSETS = re.compile(
    r"utf-?8|us-ascii|iso-8859-\d{1,2}|windows-12\d\d|cp12\d\d|cp866|koi8-[ru]|gb18030|gbk|big5|euc-\w+"
)
"""Charsets that Python decodes without state. UTF-7, UTF-16 and ISO-2022 can hide characters in plain ASCII."""
_WORD = re.compile(r"=\?([!-~]+?)(?:\*[!-~]*)?\?([bBqQ])\?([!->@-~]*)\?=")
_WORDS = re.compile(rf"(?:{_WORD.pattern})(?:[ \t]*(?:{_WORD.pattern}))*")


def filename_of(disposition: str) -> str | None:
    """`filename*` if it is readable, else `filename`; None when the header has neither.

    The name may hold paths and control characters: the caller must check it. Raises TooManyHeaders, and Malformed for a header
    that is not well-formed, for a name that is not UTF-8, and for an unreadable `filename*` without `filename`.
    """
    if len(disposition) > MAX_HEADER_BYTES:
        raise TooManyHeaders(f"Content-Disposition is longer than {MAX_HEADER_BYTES} bytes")
    plain: str | None = None
    extended: str | None = None
    unreadable = False
    for name, value in _parameters(disposition).items():
        if name == "filename*":
            extended = _extended(value)
            unreadable = unreadable or extended is None
        elif name == "filename":
            plain = content_disposition_unquote(value)
        elif _CONTINUED.fullmatch(name):
            unreadable = True
    if extended is not None:
        return extended
    if plain is not None:
        return _plain(plain)
    if unreadable:
        raise Malformed("filename* must be UTF-8''percent-encoded text (RFC 8187)")
    return None


def _parameters(disposition: str) -> dict[str, str]:
    """By lower-case name, including quotes. Raises Malformed when the name is ambiguous: a quote inside it, a quote that does
    not end, a repeated parameter."""
    found: dict[str, str] = {}
    at = disposition.find(";")
    while 0 <= at < len(disposition):
        match = _PARAMETER.match(disposition, at)
        at = match.end() if match else at
        if match is None or disposition[at : at + 1] not in ("", ";"):
            raise Malformed(
                'Content-Disposition cannot be read: write a quote inside a name as %22, and end each name with "'
            )
        name = (match[1] or "").lower()
        if name in found:
            raise Malformed(f"Content-Disposition has {name[:64]} twice")
        if name:
            found[name] = match[2].strip()
    return found


def header_text(value: bytes) -> str:
    """Bytes that are not UTF-8 become lone surrogates, which `filename_of` refuses in a name."""
    return value.decode(errors="surrogateescape")


def _plain(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise Malformed(
            "filename is not UTF-8: send it in UTF-8, or as filename*=UTF-8''percent-encoded text"
        ) from error
    if _WORDS.fullmatch(name):
        return _decoded_words(name) or name
    return _percent_decoded(name)


def _decoded_words(text: str) -> str | None:
    """Decodes RFC 2047 encoded words, as .NET and mail libraries write them; None when one cannot be decoded.

    A character may span two words of one charset.
    """
    decoded: list[tuple[str, bytes]] = []
    for charset, encoding, content in _WORD.findall(text):
        if not _CHARSETS.fullmatch(charset.lower()):
            return None
        try:
            raw = (
                base64.b64decode(content, validate=True)
                if encoding in "bB"
                else quopri.decodestring(content.encode(), header=True)
            )
        except (binascii.Error, ValueError):
            return None
        if decoded and decoded[-1][0] == charset.lower():
            decoded[-1] = (charset.lower(), decoded[-1][1] + raw)
        else:
            decoded.append((charset.lower(), raw))
    try:
        return "".join(raw.decode(charset) for charset, raw in decoded)
    except (UnicodeDecodeError, LookupError):
        return None


def _percent_decoded(name: str) -> str:
    """Decodes only to non-ASCII: RFC 7578 §4.2 permits percent-encoding (aiohttp does it), but most senders do not."""
    if not name.isascii() or "%" not in name:
        return name
    try:
        decoded = unquote_to_bytes(name).decode()
    except UnicodeDecodeError:
        return name
    return name if decoded.isascii() else decoded


def _extended(value: str) -> str | None:
    """Decodes RFC 8187 and its .NET variant, with quotes around the value or encoded in it; None when unreadable."""
    charset, first, rest = value.strip('"').partition("'")
    _, second, encoded = rest.partition("'")
    if not first or not second or not _CHARSETS.fullmatch(charset.lower()):
        return None
    try:
        name = unquote_to_bytes(encoded).decode(charset)
    except (UnicodeDecodeError, LookupError):
        return None
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = name[1:-1]
    return name or None

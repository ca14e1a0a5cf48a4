"""The content type of a file: validated and normalised in the same way by every module (RFC 9110 §8.3.1)."""

from __future__ import annotations

import re
from functools import lru_cache

from artstore.errors import InvalidFields

MAX_CONTENT_TYPE_BYTES = 255
DEFAULT_CONTENT_TYPE = "application/octet-stream"

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_ESSENCE = re.compile(rf"{_TOKEN}/{_TOKEN}")
_PARAMETER = re.compile(rf'\s*({_TOKEN})=({_TOKEN}|"(?:[\t \x21\x23-\x5b\x5d-\x7e]|\\[\t \x21-\x7e])*")\s*', re.ASCII)
_FIELD_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
_PIECE = re.compile(r'(?:[^;"]|"(?:[^"\\]|\\.)*(?:"|$))+')


@lru_cache(maxsize=256)
def canonical_type(stated: str) -> str:
    """`Text/Plain;charset=UTF-8` becomes `text/plain; charset=UTF-8`.

    Parameters that are malformed, not ASCII or too long in total are dropped, because clients put file names
    into them. Raises InvalidFields if type and subtype are missing, wildcards or a list.
    """
    essence = essence_of(stated)
    if len(essence) > MAX_CONTENT_TYPE_BYTES or not _ESSENCE.fullmatch(essence) or "*" in (essence[0], essence[-1]):
        raise InvalidFields(
            "content_type must be a media type such as application/pdf; omit it if it is unknown",
            fields=["content_type"],
        )
    result = essence
    for piece in _PIECE.findall(stated.partition(";")[2]):
        parameter = _PARAMETER.fullmatch(piece)
        if parameter and len(longer := f"{result}; {parameter[1].lower()}={parameter[2]}") <= MAX_CONTENT_TYPE_BYTES:
            result = longer
    return result


def essence_of(stated: str) -> str:
    """Type and subtype in lower case, without parameters and without validation."""
    return stated.partition(";")[0].strip().lower()


def sendable_type(kept: str) -> str:
    """The value for a Content-Type header; the default type if the stored one would break the header, because
    attr.json was edited by hand."""
    return kept if _FIELD_VALUE.fullmatch(kept) else DEFAULT_CONTENT_TYPE

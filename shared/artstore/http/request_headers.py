"""Headers that change the meaning of a request: an endpoint honours them or refuses the request
(docs/api-headers.md).

Each endpoint lists the ones that it evaluates; `check` refuses the others. GET and HEAD ignore those that may
be ignored safely (RFC 9110 §13 and §14) and return the complete, current representation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from artstore.errors import RevisionMismatch, UnsupportedHeader

DIGESTS = frozenset({"content-digest", "repr-digest", "content-md5"})
CONDITIONS = frozenset({"if-match", "if-none-match", "if-modified-since", "if-unmodified-since"})
RANGES = frozenset({"range", "if-range"})
RESUMABLE = frozenset({"tus-resumable", "upload-concat"})
"""A request of tus 1.0: the content is a part of a file, or none of it yet."""

NOTHING: frozenset[str] = frozenset()

_READING = frozenset({"GET", "HEAD"})
_REFUSED_ON_READING = frozenset(name.encode() for name in {"if-match", "if-unmodified-since"})
_REFUSED = frozenset(name.encode() for name in CONDITIONS | RANGES | DIGESTS | RESUMABLE)
_REMEDIES = {
    "if-unmodified-since": "send If-Match with the revision",
    "if-none-match": "send If-Match with the revision",
    "tus-resumable": "resumable uploads begin at /api/uploads",
    "upload-concat": "send the file as one upload",
    "range": "content can only be replaced completely",
}


def check(method: str, fields: Iterable[tuple[bytes, bytes]], honoured: Collection[str] = NOTHING) -> None:
    """Raises UnsupportedHeader; RevisionMismatch for `If-None-Match: *` on an endpoint that changes an
    existing file."""
    refused = _REFUSED_ON_READING if method in _READING else _REFUSED
    for name, value in fields:
        if name in refused and (shown := name.decode()) not in honoured:
            if name == b"if-none-match" and value.strip() == b"*" and "if-match" in honoured:
                raise RevisionMismatch("If-None-Match: * demands that the file does not exist")
            remedy = _REMEDIES.get(shown)
            raise UnsupportedHeader(
                f"{shown} is not supported on this {method}{f': {remedy}' if remedy else ''}", header=shown
            )

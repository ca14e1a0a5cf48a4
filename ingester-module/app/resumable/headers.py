"""The headers of tus 1.0: those of requests, checked, and those of answers."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from email.utils import format_datetime

from starlette.requests import Request

from artstore.clock import parse_rfc3339
from artstore.contracts.uploads import CHECKSUM_BYTES, UploadState, parse_number
from artstore.errors import InvalidFields, Malformed, TusVersionMismatch, UnsupportedMediaType

from ..uploads.body import media_type
from ..uploads.form import FIELDS

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,creation-defer-length,checksum,expiration,termination"
CONTENT_TYPE = "application/offset+octet-stream"
FILE_ID_HEADER = "x-artstore-file-id"
ALIASES = {"name": "filename", "type": "filetype"}
"""Keys that Uppy sends beside the usual ones."""
IGNORED = frozenset({"relativePath"})
MAX_METADATA_BYTES = 16 << 10

_KEY = re.compile(r"[!-+\--~]{1,64}")


def require_version(request: Request) -> None:
    """Raises TusVersionMismatch."""
    stated = request.headers.get("tus-resumable")
    if stated != VERSION:
        raise TusVersionMismatch(f"Tus-Resumable must be {VERSION}" + (f", not {stated[:32]}" if stated else ""))


def number_in(request: Request, name: str) -> int:
    """Raises Malformed."""
    value = request.headers.get(name)
    if value is None:
        raise Malformed(f"the header {name} is missing")
    return parse_number(name, value)


def length_in(request: Request) -> int | None:
    """Upload-Length of a new upload; None when it is stated later. Raises Malformed."""
    deferred = request.headers.get("upload-defer-length")
    if deferred is None:
        return number_in(request, "Upload-Length")
    if deferred != "1" or "upload-length" in request.headers:
        raise Malformed("send either Upload-Length, or Upload-Defer-Length: 1")
    return None


def has_content(request: Request) -> bool:
    """True if the request carries bytes of the upload. Raises UnsupportedMediaType."""
    length = request.headers.get("content-length")
    if "transfer-encoding" not in request.headers and (length is None or not length.strip("0")):
        return False
    require_content_type(request)
    return True


def require_content_type(request: Request) -> None:
    """Raises UnsupportedMediaType."""
    if media_type(request) != CONTENT_TYPE:
        raise UnsupportedMediaType(f"the bytes of an upload have the type {CONTENT_TYPE}")


def parse_metadata(value: str) -> tuple[dict[str, str], str | None]:
    """Upload-Metadata as (the fields of an upload, its content type). Raises Malformed, InvalidFields."""
    if len(value) > MAX_METADATA_BYTES:
        raise Malformed(f"Upload-Metadata is longer than {MAX_METADATA_BYTES} bytes")
    found: dict[str, str] = {}
    for pair in value.split(",") if value.strip() else ():
        key, _, encoded = pair.strip().partition(" ")
        if not _KEY.fullmatch(key):
            raise Malformed("Upload-Metadata must be pairs of a key and a value in base64, separated by commas")
        if key in found:
            raise InvalidFields(f"{key} is given twice", fields=[key])
        found[key] = _decoded(key, encoded)
    for alias, name in ALIASES.items():
        text = found.pop(alias, None)
        if text is not None:
            found.setdefault(name, text)
    content_type = found.pop("filetype", None)
    fields = {key: text for key, text in found.items() if key not in IGNORED}
    unknown = sorted(fields.keys() - FIELDS)
    if unknown:
        known = ", ".join(sorted(FIELDS | {"filetype"}))
        raise InvalidFields(f"unknown metadata {', '.join(unknown)}; known are {known}", fields=unknown)
    return fields, content_type or None


def _decoded(key: str, encoded: str) -> str:
    try:
        return base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise Malformed(f"Upload-Metadata: {key} must be UTF-8 in base64") from error


def options(max_bytes: int) -> dict[str, str]:
    return {
        "tus-resumable": VERSION,
        "tus-version": VERSION,
        "tus-extension": EXTENSIONS,
        "tus-max-size": str(max_bytes),
        "tus-checksum-algorithm": ",".join(CHECKSUM_BYTES),
    }


def describe(state: UploadState) -> dict[str, str]:
    """The headers of every answer about an upload."""
    headers = {
        "tus-resumable": VERSION,
        "upload-offset": str(state.offset),
        "upload-expires": format_datetime(parse_rfc3339(state.expires_at).replace(microsecond=0), usegmt=True),
        "cache-control": "no-store",
    }
    if state.committed and state.file_id is not None:
        headers[FILE_ID_HEADER] = state.file_id
    return headers


def describe_whole(state: UploadState) -> Mapping[str, str]:
    """The headers of the answer to HEAD."""
    headers = describe(state)
    if state.length is None:
        headers["upload-defer-length"] = "1"
    else:
        headers["upload-length"] = str(state.length)
    if state.metadata:
        headers["upload-metadata"] = state.metadata
    return headers

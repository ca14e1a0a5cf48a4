"""Resumable uploads between the ingester and the element that keeps the bytes (docs/decisions/0019-resumable-uploads.md).

POST /api/uploads makes one from a NewUpload. GET answers an UploadState; with `?interrupt=true` a PATCH in progress is
ended first. PATCH appends the body at OFFSET_HEADER. POST …/complete makes the file from a complete upload, as part of
a saga, and answers attr.json. POST …/settle takes a Settle. DELETE removes an upload, never a file.

Each request names the account (`sub`) in storage.ACCOUNT_HEADER: uploads of other accounts are not found.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

import msgspec

from artstore.contracts.files import NewFile
from artstore.errors import Malformed

OFFSET_HEADER = "upload-offset"
LENGTH_HEADER = "upload-length"
CHECKSUM_HEADER = "upload-checksum"
INTERRUPT = "interrupt"
UPLOADS_PATH = "/api/uploads"
CHECKSUM_BYTES = {"sha1": 20, "sha256": 32, "md5": 16}
"""The algorithms of Upload-Checksum."""
MAX_OFFSET = 2**63 - 1


class NewUpload(msgspec.Struct, frozen=True, kw_only=True):
    """`length` None: a PATCH states it later. A file without a name has an empty `filename`: it is named by its id."""

    new: NewFile
    length: Annotated[int, msgspec.Meta(ge=0, le=MAX_OFFSET)] | None
    metadata: str = ""
    """Upload-Metadata as the client sent it, to be answered to HEAD."""


class UploadState(msgspec.Struct, frozen=True, kw_only=True):
    """`file_id` and `saga_id` exist once all bytes are durable; the file exists once `committed` is true."""

    upload_id: str
    owner: str
    offset: int
    length: int | None
    expires_at: str
    metadata: str
    file_id: str | None
    saga_id: str | None
    committed: bool


class Complete(msgspec.Struct, frozen=True, kw_only=True):
    saga_id: str


class Settle(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of the saga. Not committed: it was given up, and the upload gets a new one. Idempotent."""

    saga_id: str
    committed: bool


class Checksum(msgspec.Struct, frozen=True):
    algorithm: str
    digest: bytes


def parse_number(name: str, text: str) -> int:
    """Raises Malformed unless it is a decimal number of at most 63 bits."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= MAX_OFFSET):
        raise Malformed(f"{name} must be a whole number of bytes")
    return int(text)


def parse_checksum(text: str) -> Checksum:
    """The value of Upload-Checksum: an algorithm and the digest in base64. Raises Malformed."""
    algorithm, _, encoded = text.strip().partition(" ")
    if algorithm not in CHECKSUM_BYTES:
        raise Malformed(f"Upload-Checksum must name one of {', '.join(CHECKSUM_BYTES)}")
    try:
        digest = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("Upload-Checksum: the digest must be base64") from error
    if len(digest) != CHECKSUM_BYTES[algorithm]:
        raise Malformed(f"Upload-Checksum: {algorithm} has {CHECKSUM_BYTES[algorithm]} bytes, not {len(digest)}")
    return Checksum(algorithm, digest)

"""Stores a file with one request, under an Idempotency-Key: however often it is sent, one file is made."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from .errors import ContentDamaged
from .records import FileRecord
from .sources import FileSource, StreamSource
from .transport import Call, Transport, compact_json

Progress = Callable[[int, int | None], None]
"""Called with the bytes sent or received so far, and their total (None while it is unknown). After a failure the first
number goes back to where the transfer continues."""


@dataclass(frozen=True, kw_only=True)
class NewFile:
    """The attributes of a new file that its uploader states."""

    filename: str | None = None
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] | None = None
    retention: str = "permanent"
    ttl_days: int | None = None
    content_type: str | None = None

    def fields(self) -> dict[str, str]:
        """As text, for a query string or Upload-Metadata. Raises ValueError."""
        if isinstance(self.tags, str):
            raise ValueError("tags must be a list of strings")
        given = {
            "filename": self.filename,
            "tags": compact_json(list(self.tags)) if self.tags else None,
            "metadata": compact_json(dict(self.metadata)) if self.metadata else None,
            "retention": self.retention if self.retention != "permanent" else None,
            "ttl_days": str(self.ttl_days) if self.ttl_days is not None else None,
        }
        fields = {name: text for name, text in given.items() if text is not None}
        for name, text in fields.items():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{name} is not valid Unicode: state one that is") from None
        return fields


def new_key() -> str:
    """A value for Idempotency-Key."""
    return base64.urlsafe_b64encode(os.urandom(24)).decode()


def digest_header(sha256: bytes) -> str:
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"


async def upload_whole(
    transport: Transport, source: FileSource | StreamSource, call: Call, progress: Progress | None
) -> FileRecord:
    """Sends `call` with the bytes of the source as its body; the answer is the file's record.

    A file is hashed first: the service verifies the digest, and may be asked again. A stream can be sent once only, and
    its digest is compared afterwards.
    """
    hasher = hashlib.sha256()
    headers = {"content-type": "application/octet-stream", **call.headers}
    if isinstance(source, FileSource):
        await source.hash(0, source.size, hasher)
        headers |= {"content-length": str(source.size), "repr-digest": digest_header(hasher.digest())}
        content = lambda: _counted(source.pieces(0, source.size), source.size, progress)  # noqa: E731
    else:
        content = lambda: _counted(_rest_of(source, hasher), None, progress)  # noqa: E731
    is_stream = isinstance(source, StreamSource)
    sent = Call(call.method, call.path, True, call.parameters, headers, content=content, is_stream=is_stream)
    record = FileRecord.from_json(await transport.json(sent))
    check_stored(record, hasher)
    return record


def check_stored(record: FileRecord, hasher: hashlib._Hash) -> None:
    """Raises ContentDamaged."""
    if record.sha256 != hasher.hexdigest():
        raise ContentDamaged(f"{record.file_id} was stored with other bytes than were read: {record.checksum}")


def content_path(file_id: str) -> str:
    return f"{file_path(file_id)}/content"


def file_path(file_id: str) -> str:
    return f"/api/files/{quote(file_id, safe='')}"


async def _counted(pieces: AsyncIterator[bytes], total: int | None, progress: Progress | None) -> AsyncIterator[bytes]:
    sent = 0
    if progress:
        progress(0, total)
    async for piece in pieces:
        yield piece
        sent += len(piece)
        if progress:
            progress(sent, total)


async def _rest_of(source: StreamSource, hasher: hashlib._Hash) -> AsyncIterator[bytes]:
    while piece := await source.read(64 * 1024):
        hasher.update(piece)
        yield piece

"""Resumable uploads by tus 1.0: the bytes are sent in parts, each with its checksum and durable when it is answered.

A connection that breaks costs at most one part. With a state file the upload also survives the end of this process:

1. The upload is created, and its id written to the state file.
2. Before a part is sent, the digests of all bytes before it and after it are written. A crash leaves the service at one
   of these two offsets.
3. A later call with the same file asks for the offset, compares the digest of the local bytes up to it, and continues;
   a file that has changed is begun anew.
4. The state file is removed when the file is stored.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from .errors import (
    ArtStoreError,
    Conflict,
    ContentChanged,
    InvalidAnswer,
    ModeForbids,
    NotFound,
    UploadLocked,
)
from .sources import PIECE_BYTES, FileSource, StreamSource, in_thread
from .transport import TRANSIENT, TWICE, Call, Patience, Transport
from .upload import NewFile, Progress

UPLOADS = "/api/uploads"
FIRST_PART_BYTES = 8 << 20
LARGEST_PART_BYTES = 64 << 20
"""Parts grow while all goes well, because each is a request that counts against the rate limit."""
STREAM_PART_BYTES = 32 << 20
"""A part of a stream is kept in memory until it is durable."""
MAX_BEGINNINGS = 3
_TUS = {"tus-resumable": "1.0.0"}


@dataclass(frozen=True, slots=True)
class Position:
    """The state at the service: durable bytes, the stated length, and the file once it is complete."""

    offset: int
    length: int | None
    file_id: str | None


class StateFile:
    """Keeps what is needed to continue an upload in another process. Written atomically, readable by its owner only."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self._path = path
        self._identity = identity

    def load(self) -> dict[str, Any] | None:
        """None if there is none, it is damaged, or it belongs to another file or to other attributes."""
        try:
            kept = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(kept, dict) or any(kept.get(name) != value for name, value in self._identity.items()):
            return None
        return kept if isinstance(kept.get("upload_id"), str) and isinstance(kept.get("digests"), dict) else None

    def save(self, upload_id: str, digests: dict[int, str]) -> None:
        kept = {**self._identity, "upload_id": upload_id, "digests": digests}
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(kept, file)
        os.replace(temporary, self._path)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


@dataclass
class ResumableUpload:
    """One upload, from its creation or from where an earlier one ended, to the stored file."""

    transport: Transport
    source: FileSource | StreamSource
    new: NewFile
    progress: Progress | None = None
    upload_id: str = ""
    state: StateFile | None = None
    first: bytes = b""
    """Bytes that were already read from a stream."""
    hasher: hashlib._Hash = field(default_factory=hashlib.sha256)
    """It has hashed all bytes below `_offset`."""
    _offset: int = 0
    _part_bytes: int = FIRST_PART_BYTES
    _known: dict[int, str] = field(default_factory=dict)
    """Digests of the first bytes up to an offset, from the state file."""

    async def run(self) -> str:
        """The id of the stored file. Raises ArtStoreError, with `upload_url` if it can be continued."""
        for beginning in range(1, MAX_BEGINNINGS + 1):
            try:
                file_id = await self._resume_or_create()
                file_id = file_id or await self._send_parts()
            except (ModeForbids, NotFound):
                # The element was closed, or the upload has expired: a new upload goes to another element.
                if beginning == MAX_BEGINNINGS or not self.upload_id or isinstance(self.source, StreamSource):
                    raise
                await self._forget()
            except ArtStoreError as error:
                error.upload_url = f"{UPLOADS}/{self.upload_id}" if self.upload_id else ""
                raise
            else:
                if self.state:
                    await in_thread(self.state.remove)
                return file_id
        raise AssertionError("unreachable")

    async def _resume_or_create(self) -> str | None:
        """Brings `upload_id`, `_offset` and `hasher` in line with the service. The file's id if it is complete."""
        if not self.upload_id and self.state and (kept := await in_thread(self.state.load)):
            self.upload_id = kept["upload_id"]
            self._known = {int(offset): digest for offset, digest in kept["digests"].items()}
        if self.upload_id:
            position = await self._find()
            if await self._matches(position):
                self._show()
                return position.file_id
            if not self.state:
                raise ContentChanged("the file is not the one that this upload was begun with")
            await self._forget()
        await self._create()
        return None

    async def _matches(self, position: Position) -> bool:
        """True if the local bytes are those that the service has; `hasher` and `_offset` then stand behind them."""
        if not isinstance(self.source, FileSource) or position.length != self.source.size:
            return False
        self.hasher, self._offset = hashlib.sha256(), position.offset
        await self.source.hash(0, position.offset, self.hasher)
        known = self._known.get(position.offset)
        return known is None or known == self.hasher.hexdigest()

    async def _forget(self) -> None:
        self.upload_id, self._known, self._offset, self.hasher = "", {}, 0, hashlib.sha256()
        if self.state:
            await in_thread(self.state.remove)

    async def _create(self) -> None:
        size = self.source.size if isinstance(self.source, FileSource) else None
        length = {"upload-defer-length": "1"} if size is None else {"upload-length": str(size)}
        headers = {**_TUS, **length, "upload-metadata": upload_metadata(self.new)}
        # A repeat after a lost answer leaves an empty upload behind, which expires.
        answer = await self.transport.send(Call("POST", UPLOADS, True, headers=headers))
        self.upload_id = upload_id_of(answer.headers.get("location", ""))
        await self._save()
        self._show()

    async def _send_parts(self) -> str:
        patience = self.transport.patience()
        while True:
            part = await self._next_part()
            file_id = await self._send_part(part, patience)
            patience.succeeded()
            self._part_bytes = min(self._part_bytes * 2, LARGEST_PART_BYTES)
            if part.last:
                if file_id is None:
                    raise InvalidAnswer("the upload is complete, but the service names no file")
                return file_id

    async def _next_part(self) -> FilePart | StreamPart:
        if isinstance(self.source, FileSource):
            stop = min(self._offset + self._part_bytes, self.source.size)
            return FilePart(self.source, self._offset, stop, stop == self.source.size)
        data = self.first or await self.source.read(STREAM_PART_BYTES)
        self.first = b""
        return StreamPart(data, self._offset, self._offset + len(data), self.source.ended)

    async def _send_part(self, part: FilePart | StreamPart, patience: Patience) -> str | None:
        """Returns when the part is durable: the file's id if it was the last. Repeats what did not arrive."""
        offset, after = part.start, self.hasher.copy()
        checksum = await part.hash(offset, after)
        await self._save({part.stop: after.hexdigest()})
        while True:
            try:
                file_id = await self._patch(part, offset, checksum)
                break
            except (*TRANSIENT, *TWICE, UploadLocked, Conflict) as failure:
                await patience.wait(failure, transient=True)
            self._part_bytes = max(self._part_bytes // 2, FIRST_PART_BYTES)
            position = await self._find(patience)
            file_id = position.file_id
            if file_id or (position.offset == part.stop and not part.last):
                break
            if not part.start <= position.offset <= part.stop:
                raise ContentChanged(f"the upload is at {position.offset}, not between {part.start} and {part.stop}")
            if position.offset != offset:
                offset = position.offset
                checksum = await part.hash(offset)
        self._offset, self.hasher = part.stop, after
        self._show()
        return file_id

    async def _patch(self, part: FilePart | StreamPart, offset: int, checksum: bytes) -> str | None:
        headers = {
            **_TUS,
            "content-type": "application/offset+octet-stream",
            "content-length": str(part.stop - offset),
            "upload-offset": str(offset),
            "upload-checksum": f"sha256 {base64.b64encode(checksum).decode()}",
        }
        if part.last and isinstance(part, StreamPart):
            headers["upload-length"] = str(part.stop)
        path = f"{UPLOADS}/{quote(self.upload_id, safe='')}"
        call = Call("PATCH", path, False, headers=headers, content=lambda: self._shown(part, offset))
        answer = await self.transport.attempt(call)
        if _number(answer, "upload-offset") != part.stop:
            raise InvalidAnswer(f"the upload is not at {part.stop} after a PATCH up to it")
        return _file_id(answer)

    async def _find(self, patience: Patience | None = None) -> Position:
        call = Call("HEAD", f"{UPLOADS}/{quote(self.upload_id, safe='')}", True, headers=_TUS)
        answer = await self.transport.send(call, patience=patience)
        length = _number(answer, "upload-length") if "upload-length" in answer.headers else None
        return Position(_number(answer, "upload-offset"), length, _file_id(answer))

    async def _shown(self, part: FilePart | StreamPart, offset: int) -> AsyncIterator[bytes]:
        async for piece in part.pieces(offset):
            yield piece
            offset += len(piece)
            self._show(offset)

    def _show(self, offset: int | None = None) -> None:
        if self.progress:
            self.progress(self._offset if offset is None else offset, getattr(self.source, "size", None))

    async def _save(self, digests: dict[int, str] | None = None) -> None:
        if self.state:
            known = {self._offset: self.hasher.hexdigest(), **(digests or {})}
            await in_thread(self.state.save, self.upload_id, known)


@dataclass(frozen=True, slots=True)
class FilePart:
    """The bytes of a file from `start` to before `stop`."""

    source: FileSource
    start: int
    stop: int
    last: bool

    async def hash(self, offset: int, *also: hashlib._Hash) -> bytes:
        """SHA-256 of the bytes from `offset`, which are added to `also` as well."""
        hasher = hashlib.sha256()
        await self.source.hash(offset, self.stop, hasher, *also)
        return hasher.digest()

    def pieces(self, offset: int) -> AsyncIterator[bytes]:
        return self.source.pieces(offset, self.stop)


@dataclass(frozen=True, slots=True)
class StreamPart:
    """The same of a stream, kept in memory."""

    data: bytes
    start: int
    stop: int
    last: bool

    async def hash(self, offset: int, *also: hashlib._Hash) -> bytes:
        view = memoryview(self.data)[offset - self.start :]
        hasher = hashlib.sha256()
        for one in (hasher, *also):
            await in_thread(one.update, view)
        return hasher.digest()

    async def pieces(self, offset: int) -> AsyncIterator[bytes]:
        for begin in range(offset - self.start, len(self.data), PIECE_BYTES):
            yield self.data[begin : begin + PIECE_BYTES]


def upload_metadata(new: NewFile) -> str:
    """The header Upload-Metadata."""
    fields = new.fields()
    if new.content_type:
        fields["filetype"] = new.content_type
    return ",".join(f"{name} {base64.b64encode(text.encode()).decode()}" for name, text in fields.items())


def upload_id_of(url: str) -> str:
    """The id in the URL of an upload. Raises InvalidAnswer."""
    upload_id = httpx.URL(url).path.rpartition("/")[2]
    if not upload_id:
        raise InvalidAnswer("the service named no URL of the upload")
    return upload_id


def _file_id(answer: httpx.Response) -> str | None:
    return answer.headers.get("x-artstore-file-id") or None


def _number(answer: httpx.Response, name: str) -> int:
    value = answer.headers.get(name, "")
    if not value.isascii() or not value.isdigit():
        raise InvalidAnswer(f"{name} is missing in the answer about an upload")
    return int(value)

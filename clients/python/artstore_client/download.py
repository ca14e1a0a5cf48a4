"""Reads the content of files: continued after a lost connection, and compared with the digest."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO
from urllib.parse import unquote

import httpx

from .errors import ContentChanged, ContentDamaged, InvalidAnswer
from .sources import in_thread
from .transport import Call, Transport, connection_failed
from .upload import Progress

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

WRITTEN_BYTES = 1 << 20
"""Written and hashed in one visit of a thread."""
MAX_NAME_BYTES = 255
MAX_BEGINNINGS = 3
PART = ".part"
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069<>:"|?*]')
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")


class Content:
    """The bytes of one file, or of a range of it: `async for chunk in content`, or `await content.read()`.

    Iterate once. A lost connection is continued with Range and If-Range. Whole content is compared with its digest at
    the end: ContentDamaged. ContentChanged: it was replaced meanwhile.
    """

    size_bytes: int
    """The size of the whole file."""
    start: int
    stop: int
    """The bytes to read: from `start` to before `stop`."""
    sha256: bytes
    content_type: str
    filename: str
    """As stored; unsafe as a path (`safe_name`)."""

    def __init__(self, transport: Transport, path: str, wanted: tuple[int, int | None] | None) -> None:
        self._transport = transport
        self._path = path
        self._wanted = wanted
        self._patience = transport.patience()
        self._etag = ""
        self._position = 0
        self._answer: httpx.Response | None = None

    async def connect(self, position: int | None = None) -> None:
        """Requests the bytes from `position`, by default those that are wanted."""
        await self.aclose()
        headers = {"accept-encoding": "identity"}
        span = _range_header(self._wanted if position is None else (position, self.stop))
        if span:
            headers["range"] = span
        if span and self._etag:
            headers["if-range"] = self._etag
        call = Call("GET", self._path, True, headers=headers)
        self._answer = answer = await self._transport.stream(call, patience=self._patience)
        known = self._etag
        start, stop = self._read_headers(answer)
        if known and self._etag != known:
            raise ContentChanged("the content was replaced while it was read")
        if position is None:
            self.start, self.stop = start, stop
        elif (position, self.stop) != (start, stop):
            raise InvalidAnswer("the service did not send the range that was asked for")
        self._position = start

    def forget(self) -> None:
        """Whatever content the file has now is wanted."""
        self._etag = ""

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes from the connected position on, as they arrive, not compared with the digest."""
        while True:
            answer = self._answer
            if answer is None:
                raise RuntimeError("the content is closed")
            try:
                async for chunk in answer.aiter_raw():
                    self._position += len(chunk)
                    self._patience.succeeded()
                    yield chunk
                if self._position == self.stop:
                    return
                raise httpx.ReadError("the content ended early", request=answer.request)
            except httpx.HTTPError as error:
                if self._position == self.stop:
                    return
                await self._patience.wait(connection_failed(error))
            await self.connect(self._position)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        hasher = hashlib.sha256() if self.is_whole else None
        async for chunk in self.chunks():
            if hasher:
                hasher.update(chunk)
            yield chunk
        if hasher and hasher.digest() != self.sha256:
            raise ContentDamaged("the bytes do not have the digest of the file: read it again")

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self])

    @property
    def is_whole(self) -> bool:
        return self.start == 0 and self.stop == self.size_bytes

    async def aclose(self) -> None:
        if self._answer is not None:
            await self._answer.aclose()
            self._answer = None

    def _read_headers(self, answer: httpx.Response) -> tuple[int, int]:
        """The first byte of the answer and the one after its last."""
        headers = answer.headers
        digest = re.search(r"sha-256=:([A-Za-z0-9+/=]+):", headers.get("repr-digest", ""))
        if not digest or "etag" not in headers or "content-encoding" in headers:
            raise InvalidAnswer("the answer to a download lacks ETag or Repr-Digest, or is encoded")
        self.sha256, self._etag = base64.b64decode(digest[1]), headers["etag"]
        self.content_type = headers.get("content-type", "application/octet-stream")
        self.filename = _disposition_name(headers.get("content-disposition", ""))
        if answer.status_code != 206:
            self.size_bytes = int(headers.get("content-length", "0"))
            return 0, self.size_bytes
        span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("content-range", ""))
        if not span:
            raise InvalidAnswer("Content-Range cannot be read")
        self.size_bytes = int(span[3])
        return int(span[1]), int(span[2]) + 1


async def download(content: Content, target: Path, *, resume: bool, progress: Progress | None) -> Path:
    """Writes the whole content to `target`, or into it if it is a folder, under the file's own name.

    The bytes go to `<name>.<digest>.part` in the same folder, which is renamed at the end, after fsync. With `resume` it
    stays after a failure, and is continued. An existing target is replaced; one in a given folder is not:
    FileExistsError. One process at a time writes a part: BlockingIOError.
    """
    for beginning in range(1, MAX_BEGINNINGS + 1):
        try:
            await content.connect()
            return await _download_once(content, target, resume, progress)
        except (ContentChanged, ContentDamaged):
            if beginning == MAX_BEGINNINGS:
                raise
            content.forget()
    raise AssertionError("unreachable")


async def _download_once(content: Content, target: Path, resume: bool, progress: Progress | None) -> Path:
    into_folder = await in_thread(target.is_dir)
    path = target / safe_name(content.filename) if into_folder else target
    if into_folder and await in_thread(os.path.lexists, path):
        raise FileExistsError(errno.EEXIST, "a file of this name is there already; state the path to replace it", path)
    part = part_path(path, content.sha256)
    async with _opened_part(part) as file:
        finished = False
        try:
            hasher = hashlib.sha256()
            if resume:
                have = await in_thread(_hash_part, file, hasher, content.size_bytes)
                if 0 < have < content.size_bytes:
                    await content.connect(have)
                elif have:
                    await content.aclose()
            else:
                have = 0
                await in_thread(file.truncate, 0)
            if have < content.size_bytes:
                await _receive(content, file, hasher, have, progress)
            elif progress:
                progress(have, content.size_bytes)
            if hasher.digest() != content.sha256:
                await in_thread(file.truncate, 0)
                raise ContentDamaged(f"the bytes of {path.name} do not have the digest of the file")
            await in_thread(_finish, file, part, path)
            finished = True
        finally:
            if not (finished or resume):
                part.unlink(missing_ok=True)
    return path


async def _receive(
    content: Content, file: IO[bytes], hasher: hashlib._Hash, received: int, progress: Progress | None
) -> None:
    waiting, size = list[bytes](), 0

    async def write() -> None:
        nonlocal size
        block = b"".join(waiting)
        waiting.clear()
        size = 0
        await in_thread(_append, file, block, hasher)
        if progress:
            progress(received, content.size_bytes)

    if progress:
        progress(received, content.size_bytes)
    async for chunk in content.chunks():
        waiting.append(chunk)
        size += len(chunk)
        received += len(chunk)
        if size >= WRITTEN_BYTES:
            await write()
    if waiting:
        await write()


def _append(file: IO[bytes], block: bytes, hasher: hashlib._Hash) -> None:
    view = memoryview(block)
    while view:  # a raw file writes less than it was given when the disk is full; the next write fails
        view = view[file.write(view) :]
    hasher.update(block)


def _hash_part(file: IO[bytes], hasher: hashlib._Hash, size: int) -> int:
    """Hashes what an earlier download has left; the number of bytes. A part that is too long is emptied."""
    have = os.fstat(file.fileno()).st_size
    if have > size:
        file.truncate(0)
        have = 0
    file.seek(0)
    while block := file.read(WRITTEN_BYTES):
        hasher.update(block)
    return have


def _finish(file: IO[bytes], part: Path, path: Path) -> None:
    os.fsync(file.fileno())
    os.replace(part, path)


@asynccontextmanager
async def _opened_part(part: Path) -> AsyncIterator[IO[bytes]]:
    file = await in_thread(_open_locked, part)
    try:
        yield file
    finally:
        file.close()


def _open_locked(part: Path) -> IO[bytes]:
    """Raises BlockingIOError if another download has it open."""
    while True:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o666)
        file = open(descriptor, "r+b", buffering=0)  # noqa: SIM115
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another download may have renamed or removed it between open and lock.
            if part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat()):
                return file
        except BlockingIOError:
            file.close()
            raise BlockingIOError(errno.EWOULDBLOCK, "another download writes this file", str(part)) from None
        except BaseException:
            file.close()
            raise
        file.close()


def part_path(path: Path, sha256: bytes) -> Path:
    """The name holds the digest, so that only bytes of the same content are ever continued."""
    suffix = f".{sha256.hex()[:16]}{PART}"
    return path.with_name(_shortened(path.name, MAX_NAME_BYTES - len(suffix)) + suffix)


def safe_name(name: str) -> str:
    """A file name that stays in its folder and that every system accepts: the last part of a path, with _ in place of
    unsafe characters."""
    last = _UNSAFE.sub("_", re.split(r"[/\\]", name)[-1]).rstrip(". ")
    if not last or _RESERVED.fullmatch(last):
        last = f"_{last}"
    return _shortened(last, MAX_NAME_BYTES)


def _shortened(name: str, max_bytes: int) -> str:
    """At most so many bytes, whole characters only; the suffix stays."""
    if len(os.fsencode(name)) <= max_bytes:
        return name
    stem, suffix = os.path.splitext(name)
    if len(os.fsencode(suffix)) > 32:
        stem, suffix = name, ""
    return os.fsencode(stem)[: max_bytes - len(os.fsencode(suffix))].decode(errors="ignore") + suffix


def _range_header(wanted: tuple[int, int | None] | None) -> str:
    if wanted is None:
        return ""
    start, stop = wanted
    if start < 0 or (stop is not None and stop <= start):
        raise ValueError("a range is (start, stop), with 0 <= start < stop; stop may be None")
    return f"bytes={start}-" if stop is None else f"bytes={start}-{stop - 1}"


def _disposition_name(value: str) -> str:
    encoded = re.search(r"filename\*=UTF-8''([^;]*)", value, re.IGNORECASE)
    if encoded:
        return unquote(encoded[1], errors="replace")
    plain = re.search(r'filename="((?:[^"\\]|\\.)*)"', value)
    return re.sub(r"\\(.)", r"\1", plain[1]) if plain else ""

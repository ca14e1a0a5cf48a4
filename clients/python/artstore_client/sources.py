"""The source of the bytes of an upload: memory, a file, or a stream that can be read only once."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, ParamSpec, TypeVar

from .errors import ContentChanged

PIECE_BYTES = 256 * 1024
"""Read and sent at once."""
HASHED_BYTES = 4 * 1024 * 1024
"""Read and hashed in one visit of a thread."""

Content = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | AsyncIterator[bytes]
"""A path, bytes, a file opened in binary mode (read from its position), or an async iterator of bytes."""

P = ParamSpec("P")
R = TypeVar("R")


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """As asyncio.to_thread, but a cancelled caller continues only when the thread has ended: then the file that it
    used can be closed."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            task.exception()
        raise


class FileSource:
    """A file, or bytes in memory, that can be read again from any offset."""

    def __init__(self, file: IO[bytes], size: int, begin: int, name: str | None, mtime_ns: int | None) -> None:
        self.size = size
        self.name = name
        self.mtime_ns = mtime_ns
        self._file = file
        self._begin = begin
        self._lock = threading.Lock()
        self._in_memory = isinstance(file, io.BytesIO)

    async def pieces(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes from `start` to before `stop`. Raises ContentChanged if the file has become shorter."""
        while start < stop:
            size = min(PIECE_BYTES, stop - start)
            piece = self._read(start, size) if self._in_memory else await in_thread(self._read, start, size)
            yield piece
            start += len(piece)

    async def hash(self, start: int, stop: int, *hashers: hashlib._Hash) -> None:
        """Adds these bytes to each of the hashers."""
        while start < stop:
            end = min(start + HASHED_BYTES, stop)
            if self._in_memory and end - start <= PIECE_BYTES:
                self._hash(start, end, hashers)
            else:
                await in_thread(self._hash, start, end, hashers)
            start = end

    def _hash(self, start: int, stop: int, hashers: tuple[hashlib._Hash, ...]) -> None:
        while start < stop:
            piece = self._read(start, min(PIECE_BYTES, stop - start))
            for hasher in hashers:
                hasher.update(piece)
            start += len(piece)

    def _read(self, offset: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(self._begin + offset)
            piece = self._file.read(size)
        if not isinstance(piece, bytes):
            raise ValueError("the file must be opened in binary mode")
        if not piece:
            raise ContentChanged(f"{self.name or 'the file'} became shorter while it was sent")
        return piece


class StreamSource:
    """Bytes that can be read once, of unknown number."""

    def __init__(self, pieces: AsyncIterator[bytes], name: str | None) -> None:
        self.name = name
        self._pieces = pieces
        self._waiting = bytearray()
        self._exhausted = False

    @property
    def ended(self) -> bool:
        """True as soon as the last byte was read."""
        return self._exhausted and not self._waiting

    async def read(self, size: int) -> bytes:
        """`size` bytes, fewer at the end."""
        while len(self._waiting) <= size and not self._exhausted:
            try:
                self._waiting += await anext(self._pieces)
            except StopAsyncIteration:
                self._exhausted = True
        taken = bytes(self._waiting[:size])
        del self._waiting[:size]
        return taken


def in_memory(content: bytes | bytearray | memoryview) -> FileSource:
    return FileSource(io.BytesIO(content), memoryview(content).nbytes, 0, None, None)


@asynccontextmanager
async def open_source(content: Content) -> AsyncIterator[FileSource | StreamSource]:
    """Raises OSError, and ValueError for what is not content. A file that was given stays open."""
    if isinstance(content, bytes | bytearray | memoryview):
        yield in_memory(content)
    elif isinstance(content, str | os.PathLike):
        path = Path(content)
        file = await in_thread(path.open, "rb", buffering=0)
        try:
            state = await in_thread(os.fstat, file.fileno())
            if stat.S_ISREG(state.st_mode):
                yield FileSource(file, state.st_size, 0, path.name, state.st_mtime_ns)
            else:
                yield StreamSource(_pieces_of(file), path.name)
        finally:
            file.close()
    elif isinstance(content, AsyncIterator):
        yield StreamSource(content, None)
    elif hasattr(content, "read"):
        yield await in_thread(_opened, content)
    else:
        raise ValueError(f"cannot upload a {type(content).__name__}: give a path, bytes, a file or an async iterator")


def _opened(file: IO[bytes]) -> FileSource | StreamSource:
    given = getattr(file, "name", None)
    name = os.path.basename(given) if isinstance(given, str) and not given.startswith("<") else None
    if not file.seekable():
        return StreamSource(_pieces_of(file), name)
    begin = file.tell()
    size = file.seek(0, os.SEEK_END) - begin
    file.seek(begin)
    return FileSource(file, size, begin, name, None)


async def _pieces_of(file: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := await in_thread(file.read, PIECE_BYTES):
        yield piece

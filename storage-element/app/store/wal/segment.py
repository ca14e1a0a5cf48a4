"""One segment of the log: a preallocated file with a header and frames. Their layout, how they are written and read.

    header   at 0 and again at 2048: magic, sequence, nonce, first number, CRC32C
    frame    nonce (8) · number (8) · record length (4) · data length (4) · CRC32C (4) · 0 (4) · record · data · zeros to 64

A new random nonce is drawn at each use of a segment. It begins every frame and is part of its CRC, so that neither a frame of
an earlier use nor uploaded bytes that imitate one are taken for a frame.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import google_crc32c
import msgspec

from .. import durable
from .records import Record, decode_record

MAGIC = b"ARTSWAL1"
HEADER = struct.Struct("<8sQ8sQI")
HEADER_AT = (0, 2048)
FIRST_FRAME_AT = 4096
FRAME = struct.Struct("<8sQIIII")
ALIGNMENT = 64
SUFFIX = ".wal"
ZEROS_BYTES = 1 << 20


@dataclass(slots=True)
class Segment:
    """An open segment. `first` and `end` bound the numbers of its records."""

    path: str
    fd: int
    size_bytes: int
    sequence: int = 0
    nonce: bytes = b""
    first: int = 0
    end: int = 0
    position: int = FIRST_FRAME_AT

    def fits(self, size_bytes: int) -> bool:
        return self.position + size_bytes <= self.size_bytes


@dataclass(frozen=True, slots=True)
class Frame:
    number: int
    record: Record
    data: memoryview
    position: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Bytes between two valid frames, or a torn tail, that no CRC confirms."""

    path: str
    position: int
    content: bytes
    torn_tail: bool


@dataclass(slots=True)
class SegmentRead:
    sequence: int
    first: int
    frames: list[Frame] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)


def frame_size(record: bytes, data: bytes) -> int:
    bare = FRAME.size + len(record) + len(data)
    return bare + (-bare % ALIGNMENT)


def build_frame(nonce: bytes, number: int, record: bytes, data: bytes) -> list[bytes]:
    """The frame as buffers to be written in order."""
    head = FRAME.pack(nonce, number, len(record), len(data), 0, 0)
    crc = google_crc32c.extend(google_crc32c.extend(google_crc32c.value(head), record), data)
    padding = bytes(-(FRAME.size + len(record) + len(data)) % ALIGNMENT)
    return [FRAME.pack(nonce, number, len(record), len(data), crc, 0), record, data, padding]


def create_segment(path: str, size_bytes: int) -> Segment:
    """Filled with zeros and synced, so that a later fdatasync allocates no blocks and only writes bytes."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, durable.FILE_MODE)
    try:
        zeros = bytes(ZEROS_BYTES)
        for offset in range(0, size_bytes, ZEROS_BYTES):
            durable.write_all(fd, [zeros[: size_bytes - offset]], offset)
        durable.sync_data(fd)
        durable.sync_path(os.path.dirname(path))
    except BaseException:
        os.close(fd)
        durable.remove(path)
        raise
    return Segment(path, fd, size_bytes)


def open_segment(path: str) -> Segment:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    return Segment(path, fd, os.fstat(fd).st_size)


def begin_segment(segment: Segment, sequence: int, first: int) -> None:
    """Start a new use. Durable with the sync of the first frame: until then the frames of the earlier use are intact below."""
    segment.sequence, segment.first, segment.end = sequence, first, first
    segment.nonce = os.urandom(8)
    segment.position = FIRST_FRAME_AT
    bare = HEADER.pack(MAGIC, sequence, segment.nonce, first, 0)
    header = HEADER.pack(MAGIC, sequence, segment.nonce, first, google_crc32c.value(bare))
    for position in HEADER_AT:
        durable.write_all(segment.fd, [header], position)


def read_segment(path: str) -> SegmentRead | None:
    """None for a segment that was never used. The data of the frames are views of the mapped file."""
    with open(path, "rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes < FIRST_FRAME_AT:
            return None
        view = mmap.mmap(file.fileno(), size_bytes, access=mmap.ACCESS_READ)
    header = _read_header(view)
    if header is None:
        return None
    sequence, nonce, first = header
    read = SegmentRead(sequence, first)
    position = FIRST_FRAME_AT
    while position < size_bytes:
        frame = _read_frame(view, position, nonce, first)
        if frame is None:
            position = _skip_unreadable(view, position, nonce, first, path, read)
            continue
        read.frames.append(frame)
        bare = FRAME.size + _lengths(view, position)
        position += bare + (-bare % ALIGNMENT)
    return read


def _read_header(view: mmap.mmap) -> tuple[int, bytes, int] | None:
    """The copy with the higher sequence: a crash may have written only one of the two."""
    found: list[tuple[int, bytes, int]] = []
    for position in HEADER_AT:
        magic, sequence, nonce, first, crc = HEADER.unpack_from(view, position)
        bare = HEADER.pack(magic, sequence, nonce, first, 0)
        if magic == MAGIC and google_crc32c.value(bare) == crc:
            found.append((sequence, nonce, first))
    return max(found, default=None)


def _lengths(view: mmap.mmap, position: int) -> int:
    _, _, record_length, data_length, _, _ = FRAME.unpack_from(view, position)
    return int(record_length) + int(data_length)


def _read_frame(view: mmap.mmap, position: int, nonce: bytes, first: int) -> Frame | None:
    if position + FRAME.size > len(view) or view[position : position + 8] != nonce:
        return None
    _, number, record_length, data_length, crc, _ = FRAME.unpack_from(view, position)
    start = position + FRAME.size
    if number < first or start + record_length + data_length > len(view):
        return None
    record = view[start : start + record_length]
    data = memoryview(view)[start + record_length : start + record_length + data_length]
    head = FRAME.pack(nonce, number, record_length, data_length, 0, 0)
    if google_crc32c.extend(google_crc32c.extend(google_crc32c.value(head), record), bytes(data)) != crc:
        return None
    try:
        return Frame(number, decode_record(record), data, position)
    except msgspec.MsgspecError:
        return None


def _skip_unreadable(view: mmap.mmap, position: int, nonce: bytes, first: int, path: str, read: SegmentRead) -> int:
    """Continue at the next valid frame: a torn or damaged one must not hide those after it."""
    for candidate in _candidates(view, position, nonce):
        if _read_frame(view, candidate, nonce, first) is not None:
            content = view[position:candidate]
            read.unreadable.append(Unreadable(path, position, content, torn_tail=False))
            return candidate
    if view[position : position + 8] == nonce and position + FRAME.size <= len(view):
        end = min(len(view), position + FRAME.size + _lengths(view, position))
        read.unreadable.append(Unreadable(path, position, view[position:end], torn_tail=True))
    return len(view)


def _candidates(view: mmap.mmap, position: int, nonce: bytes) -> Iterator[int]:
    at = view.find(nonce, position + 1)
    while at != -1:
        if at % ALIGNMENT == 0:
            yield at
        at = view.find(nonce, at + 1)

"""A disk that records every write and flush, as a process: python -m tests.faults.recording IMAGE MOUNTPOINT RECORD.

It serves a FUSE file system with one file, `disk`, under a loop device: every request of the block layer arrives here in
order, and a flush (the loop device's fsync) is a request too. Creating the file `broken` beside RECORD makes every later
flush fail with EIO.

RECORD is a sequence of ENTRY headers, each followed by the bytes of a write.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import struct
import sys
import time
from pathlib import Path

ENTRY = struct.Struct("<QQI")
"""Monotonic nanoseconds when it arrived, offset, length; a flush has FLUSH as its offset."""
FLUSH = (1 << 64) - 1

# linux/fuse.h
IN_HEADER = struct.Struct("<IIQQIIII")
OUT_HEADER = struct.Struct("<IiQ")
INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
READ_WRITE_IN = struct.Struct("<QQIIQII")
LOOKUP, FORGET, GETATTR, OPEN, READ, WRITE, STATFS, RELEASE, FSYNC, FLUSH_CALL, INIT = (
    1,
    2,
    3,
    14,
    15,
    16,
    17,
    18,
    20,
    25,
    26,
)
OPENDIR, RELEASEDIR, INTERRUPT, DESTROY, BATCH_FORGET = 27, 29, 36, 38, 42
UNANSWERED = frozenset({FORGET, INTERRUPT, BATCH_FORGET})
BIG_WRITES, MAX_PAGES = 1 << 5, 1 << 22
MAX_WRITE = 1 << 20
DIRECT_IO = 1
ROOT_NODE, DISK_NODE = 1, 2
FOR_EVER_S = 1 << 30


class RecordingDisk:
    def __init__(self, image: Path, record: Path) -> None:
        self._size = image.stat().st_size
        with image.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), self._size)
        self._record = record.open("ab", buffering=0)
        self._broken = record.with_name("broken")

    def answer(self, opcode: int, node: int, body: memoryview) -> bytes:
        """Raises OSError for what it has not or does not."""
        if opcode == WRITE:
            _, offset, size, *_ = READ_WRITE_IN.unpack_from(body)
            return self._write(offset, body[READ_WRITE_IN.size :][:size])
        if opcode == READ:
            _, offset, size, *_ = READ_WRITE_IN.unpack_from(body)
            return self._bytes[offset : offset + size]
        if opcode == FSYNC:
            return self._flush()
        if opcode == INIT:
            flags = BIG_WRITES | MAX_PAGES
            return INIT_OUT.pack(7, 31, 1 << 20, flags, 64, 48, MAX_WRITE, 1, MAX_WRITE // 4096, 0, 0)
        if opcode == LOOKUP and bytes(body).rstrip(b"\0") == b"disk":
            return struct.pack("<QQQQII", DISK_NODE, 0, FOR_EVER_S, FOR_EVER_S, 0, 0) + self._attributes(DISK_NODE)
        if opcode == LOOKUP:
            raise FileNotFoundError(errno.ENOENT, "only the disk is here")
        if opcode == GETATTR:
            return struct.pack("<QII", FOR_EVER_S, 0, 0) + self._attributes(node)
        if opcode in (OPEN, OPENDIR):
            return struct.pack("<QIi", 0, DIRECT_IO if opcode == OPEN else 0, 0)
        if opcode in (RELEASE, RELEASEDIR, FLUSH_CALL, DESTROY):
            return b""
        raise OSError(errno.ENOSYS, "not needed for a disk")

    def _write(self, offset: int, data: memoryview) -> bytes:
        self._record.write(ENTRY.pack(time.monotonic_ns(), offset, len(data)) + data)
        self._bytes[offset : offset + len(data)] = data
        return struct.pack("<II", len(data), 0)

    def _flush(self) -> bytes:
        if self._broken.exists():
            raise OSError(errno.EIO, "broken on demand")
        self._record.write(ENTRY.pack(time.monotonic_ns(), FLUSH, 0))
        return b""

    def _attributes(self, node: int) -> bytes:
        mode, size = (stat.S_IFREG | 0o600, self._size) if node == DISK_NODE else (stat.S_IFDIR | 0o700, 0)
        return ATTR.pack(node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def serve(disk: RecordingDisk, mountpoint: Path) -> None:
    """Until it is unmounted."""
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"artstore-disk", os.fsencode(mountpoint), b"fuse", 0, options) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount: {os.strerror(number)}")
    while True:
        try:
            request = memoryview(os.read(device, MAX_WRITE + 8192))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            raise
        length, opcode, unique, node, *_ = IN_HEADER.unpack_from(request)
        if opcode in UNANSWERED:
            continue
        try:
            answer, number = disk.answer(opcode, node, request[IN_HEADER.size : length]), 0
        except OSError as error:
            answer, number = b"", error.errno or errno.EIO
        os.write(device, OUT_HEADER.pack(OUT_HEADER.size + len(answer), -number, unique) + answer)


if __name__ == "__main__":
    serve(RecordingDisk(Path(sys.argv[1]), Path(sys.argv[3])), Path(sys.argv[2]))

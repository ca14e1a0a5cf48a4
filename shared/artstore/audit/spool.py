"""A writer's own place on disk: its signing key, the end of its chain, and the events that PostgreSQL does not have yet.

    <folder>/writer-0/key           Ed25519 private key, raw, 0600; held by flock, so a second process takes writer-1
    <folder>/writer-0/events        one signed event a line, synced before the action it records is acknowledged
    <folder>/writer-0/head.json     the end of the chain when `events` was last emptied

A crash leaves at most a torn last line, of an event nobody was told of: it is cut off. Events shipped but not yet taken out are
shipped again, which changes nothing.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from artstore.audit.event import Head, Signed, head_after

MAX_WRITERS = 64
"""Processes that share one folder."""


class Spool:
    """Blocking: called in a thread. Without a folder nothing outlives the process, and the key is new with each."""

    def __init__(self, folder: Path | None) -> None:
        self.left: list[Signed] = []
        self.head = Head()
        self._path: Path | None = None
        self._file = self._lock = -1
        self._size = 0
        if folder is None:
            self.key = Ed25519PrivateKey.generate()
        else:
            self._path, self._lock, self.key = _take_writer(folder)
            self._open(self._path)

    @property
    def durable(self) -> bool:
        return self._path is not None

    @property
    def size_bytes(self) -> int:
        return self._size

    def append(self, events: list[Signed]) -> None:
        """On disk when it returns. Raises OSError; then none of them is in the file."""
        self.head = head_after(events[-1])
        if self._path is None:
            return
        lines = b"".join(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE) for event in events)
        try:
            if os.pwrite(self._file, lines, self._size) != len(lines):
                raise OSError("the disk took only a part of an audit event")
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(lines)

    def empty(self) -> None:
        """All of it is in PostgreSQL. A crash between the two steps leaves events that are shipped once more."""
        if self._path is None:
            return
        _write_whole(self._path / "head.json", msgspec.json.encode(self.head))
        os.ftruncate(self._file, 0)
        self._size = 0

    def close(self) -> None:
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1

    def _open(self, path: Path) -> None:
        if (path / "head.json").exists():
            self.head = msgspec.json.decode((path / "head.json").read_bytes(), type=Head)
        self._file = os.open(path / "events", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        content = (path / "events").read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        self._size = len(whole)
        os.ftruncate(self._file, self._size)
        self.left = [orjson.loads(line) for line in whole.splitlines()]
        if self.left and self.left[-1]["seq"] >= self.head.seq:
            self.head = head_after(self.left[-1])


def _take_writer(folder: Path) -> tuple[Path, int, Ed25519PrivateKey]:
    """The first place that no living process holds: so a new process ships what a dead one left."""
    for number in range(MAX_WRITERS):
        path = folder / f"writer-{number}"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        if not (path / "key").exists():
            _write_whole(path / "key", Ed25519PrivateKey.generate().private_bytes_raw())
        return path, lock, Ed25519PrivateKey.from_private_bytes((path / "key").read_bytes())
    raise OSError(f"{MAX_WRITERS} processes write audit events in {folder}")


def _write_whole(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

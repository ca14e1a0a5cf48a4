"""A writer's folder on disk: its signing key, the head of its chain, and the events that PostgreSQL does not
have yet.

    <folder>/writer-0/lock          held with flock while the process lives, so a second process uses writer-1
    <folder>/writer-0/key           Ed25519 private key, raw, mode 0600
    <folder>/writer-0/events        one signed event per line, synced before the recorded action is acknowledged
    <folder>/writer-0/head.json     the head of the chain when `events` was last emptied

A crash leaves at most a torn last line, whose event was not acknowledged: it is truncated. Events that were
shipped but not yet removed are shipped again, which is idempotent.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from artstore.atomic_file import replace_file
from artstore.audit.event import ChainHead, Signed, head_after

MAX_WRITERS = 64
"""The largest number of processes that may share one folder."""


class Spool:
    """Blocks on disk: call it in a thread. Without a folder events stay in memory and the key is new in each
    process."""

    def __init__(self, folder: Path | None) -> None:
        self.left: list[Signed] = []
        self.head = ChainHead()
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
        """Writes and syncs the events. Raises OSError; then none of them is in the file."""
        self.head = head_after(events[-1])
        if self._path is None:
            return
        lines = b"".join(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE) for event in events)
        try:
            if os.pwrite(self._file, lines, self._size) != len(lines):
                raise OSError("short write of an audit event")
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(lines)

    def empty(self) -> None:
        """Removes all events, once PostgreSQL has them. A crash between the two steps leaves events that are
        shipped again."""
        if self._path is None:
            return
        replace_file(self._path / "head.json", msgspec.json.encode(self.head), durable=True)
        os.ftruncate(self._file, 0)
        self._size = 0

    def close(self) -> None:
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1

    def _open(self, path: Path) -> None:
        if (path / "head.json").exists():
            self.head = msgspec.json.decode((path / "head.json").read_bytes(), type=ChainHead)
        self._file = os.open(path / "events", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        content = (path / "events").read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        self._size = len(whole)
        os.ftruncate(self._file, self._size)
        self.left = [orjson.loads(line) for line in whole.splitlines()]
        if self.left and self.left[-1]["seq"] >= self.head.seq:
            self.head = head_after(self.left[-1])


def _take_writer(folder: Path) -> tuple[Path, int, Ed25519PrivateKey]:
    """Locks the first folder that no running process holds, so a new process ships the events of a dead one."""
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
            replace_file(path / "key", Ed25519PrivateKey.generate().private_bytes_raw(), durable=True)
        return path, lock, Ed25519PrivateKey.from_private_bytes((path / "key").read_bytes())
    raise OSError(f"{MAX_WRITERS} processes already write audit events in {folder}")

"""A disk that keeps only what it must: at a power cut it drops unsynced writes and reorders unordered ones.

It replaces `os` and libc in the durable layer, passes each call on to a real folder (the view of the page cache), and keeps a
list of the calls. An image for a cut after any of the calls is then made from that list:

- bytes written to a file since its last sync may be lost, each page independently;
- a create, rename, unlink or mkdir is durable once a folder that it changed was synced after it (or the whole file system);
  before that it may be lost, but never while a later one of the same names is kept, and a rename is never half done;
- the content of a folder whose own name is lost is lost, however often the folder was synced.

That is weaker than ext4, xfs or btrfs, and all that POSIX promises.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
PAGE_BYTES = 4096


@dataclass(slots=True, eq=False)
class Node:
    """A file's bytes, whatever names it has. `base` is what the image had at the start."""

    base: bytes = b""


@dataclass(frozen=True, slots=True)
class Call:
    what: str
    names: tuple[str, ...] = ()
    node: Node | None = None
    offset: int = 0
    data: bytes = b""


@dataclass(slots=True)
class Image:
    files: dict[str, bytes] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    def write_to(self, root: Path) -> None:
        for folder in sorted(self.folders):
            (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (root / name.lstrip("/")).write_bytes(content)


class SimulatedDisk:
    """The disk of one session, on a real folder that `image` was written to. Replaces `os` in durable.py and segment.py."""

    def __init__(self, root: Path, image: Image) -> None:
        self.calls: list[Call] = []
        self._root = os.path.abspath(root)
        self._image = image
        self._base = {name: Node(content) for name, content in image.files.items()}
        self._names = dict(self._base)
        self._open: dict[int, tuple[str, Node | None]] = {}
        self._positions: dict[int, int] = {}
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        return getattr(os if hasattr(os, name) else LIBC, name)

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        with self._lock:
            name = self._inside(path)
            new = bool(flags & os.O_CREAT) and not os.path.exists(path)
            fd = os.open(path, flags, mode)
            if new:
                self._names[name] = Node()
                self._add(Call("create", (name,), self._names[name]))
            self._open[fd] = (name, self._names.get(name))
            self._positions[fd] = 0
            return fd

    def writev(self, fd: int, pieces: Iterable[bytes]) -> int:
        taken = self.pwritev(fd, pieces, self._positions[fd])
        self._positions[fd] += taken
        return taken

    def pwritev(self, fd: int, pieces: Iterable[bytes], offset: int) -> int:
        with self._lock:
            data = b"".join(pieces)
            os.pwrite(fd, data, offset)
            self._add(Call("write", node=self._node(fd), offset=offset, data=data))
            return len(data)

    def fdatasync(self, fd: int) -> None:
        self.fsync(fd)

    def fsync(self, fd: int) -> None:
        with self._lock:
            name, node = self._open[fd]
            self._add(Call("sync folder", (name,)) if node is None else Call("sync", node=node))

    def syncfs(self, fd: int) -> int:
        with self._lock:
            self._add(Call("sync all"))
        return 0

    def rename(self, source: str, target: str) -> None:
        with self._lock:
            os.rename(source, target)
            names = (self._inside(source), self._inside(target))
            self._names[names[1]] = self._names.pop(names[0])
            self._add(Call("rename", names))

    def unlink(self, path: str) -> None:
        with self._lock:
            os.unlink(path)
            self._names.pop(self._inside(path), None)
            self._add(Call("unlink", (self._inside(path),)))

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        with self._lock:
            os.mkdir(path, mode)
            self._add(Call("mkdir", (self._inside(path),)))

    def image_after(self, count: int, random: Random, share: float) -> Image:
        """The image after a power cut following the first `count` calls, with the `share` of unsynced changes kept."""
        calls = self.calls[:count]
        names, folders = dict(self._base), set(self._image.folders)
        for number in sorted(_surviving(calls, random, share)):
            _apply(calls[number], names, folders)
        content = _contents(calls, set(names.values()), random, share)
        reachable = {folder for folder in folders if all(above in folders for above in _above(folder))}
        files = {name: content[node] for name, node in names.items() if os.path.dirname(name) in reachable | {""}}
        return Image(files, reachable)

    def _add(self, call: Call) -> None:
        self.calls.append(call)

    def _node(self, fd: int) -> Node:
        node = self._open[fd][1]
        assert node is not None
        return node

    def _inside(self, path: str) -> str:
        return os.path.abspath(path).removeprefix(self._root)


def _surviving(calls: list[Call], random: Random, share: float) -> set[int]:
    """Numbers of the calls on names that are on the disk."""
    synced: set[str] = set()
    all_synced = False
    needed: set[str] = set()
    surviving: set[int] = set()
    for number in range(len(calls) - 1, -1, -1):
        call = calls[number]
        if call.what == "sync all":
            all_synced = True
        elif call.what == "sync folder":
            synced.update(call.names)
        elif call.what in ("create", "rename", "unlink", "mkdir"):
            certain = all_synced or any(os.path.dirname(name) in synced for name in call.names)
            if certain or needed.intersection(call.names) or random.random() < share:
                surviving.add(number)
                needed.update(call.names)
    return surviving


def _apply(call: Call, names: dict[str, Node], folders: set[str]) -> None:
    if call.what == "mkdir":
        folders.add(call.names[0])
    elif call.what == "create":
        assert call.node is not None
        names[call.names[0]] = call.node
    elif call.what == "unlink":
        names.pop(call.names[0], None)
    elif call.names[0] in names:
        names[call.names[1]] = names.pop(call.names[0])


def _contents(calls: list[Call], nodes: set[Node], random: Random, share: float) -> dict[Node, bytes]:
    last_sync: dict[Node, int] = {}
    all_synced = max((number for number, call in enumerate(calls) if call.what == "sync all"), default=-1)
    for number, call in enumerate(calls):
        if call.what == "sync" and call.node is not None:
            last_sync[call.node] = number
    contents = {node: bytearray(node.base) for node in nodes}
    for number, call in enumerate(calls):
        if call.what != "write" or call.node not in contents:
            continue
        certain = number < max(all_synced, last_sync.get(call.node, -1))
        _write(contents[call.node], call, 1.0 if certain else share, random)
    return {node: bytes(content) for node, content in contents.items()}


def _write(content: bytearray, call: Call, share: float, random: Random) -> None:
    for start in range(0, len(call.data), PAGE_BYTES):
        if share < 1.0 and random.random() >= share:
            continue
        page = call.data[start : start + PAGE_BYTES]
        offset = call.offset + start
        content.extend(bytes(max(0, offset + len(page) - len(content))))
        content[offset : offset + len(page)] = page


def _above(folder: str) -> list[str]:
    parts = folder.split("/")[1:]
    return ["/" + "/".join(parts[:count]) for count in range(1, len(parts))]

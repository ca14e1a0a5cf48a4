"""Copies the files of an element while it serves, and links those that the backup before has already.

A file is copied whole or not at all: its attr.json is read first, and the bytes must have the hash that it states. If they
do not, the file was changed meanwhile, and both are read again. Its attr.json is written last, as in the store.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from artstore.contracts.files import decode, is_id

ATTRIBUTES = ".attr.json"
IDENTITY = "element.json"
PIECE_BYTES = 1 << 20
THREADS = 4
ATTEMPTS = 3
"""Each repeats only when a client changed the file during the attempt before."""


class Damaged(Exception):
    """The file cannot be read, or its bytes are not those that attr.json states, and no client has changed them meanwhile."""


class Deleted(Exception):
    """The file was deleted since its folder was listed."""


@dataclass(slots=True)
class ElementCopy:
    """The result of one backup of an element."""

    element_id: str
    files: int = 0
    copied: int = 0
    copied_bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    """File ids that could not be copied, with the reason."""

    def add(self, name: str, done: int | str) -> None:
        """`done`: the bytes that were copied, or -1 for a link, or the reason of a failure."""
        if isinstance(done, str):
            self.damaged.append(f"{name}: {done}")
            return
        self.files += 1
        if done >= 0:
            self.copied += 1
            self.copied_bytes += done


def copy_element(root: Path, target: Path, before: Path | None) -> ElementCopy:
    """`before`: this element in the last complete backup on the same file system. Nothing of `target` exists yet."""
    copy = ElementCopy(target.name)
    for first in _folders(root / "files"):  # also empty ones: a root without any looks like a disk that is not mounted
        (target / "files" / first).mkdir(parents=True)
    with ThreadPoolExecutor(THREADS) as threads:
        for results in threads.map(partial(_copy_folder, root, target, before), _leaf_folders(root)):
            for name, done in results:
                copy.add(name, done)
    shutil.copyfile(root / IDENTITY, target / IDENTITY)
    return copy


def _leaf_folders(root: Path) -> Iterator[str]:
    for first in _folders(root / "files"):
        for second in _folders(root / "files" / first):
            yield f"files/{first}/{second}"


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))


def _copy_folder(root: Path, target: Path, before: Path | None, folder: str) -> list[tuple[str, int | str]]:
    names = [name.removesuffix(ATTRIBUTES) for name in os.listdir(root / folder) if name.endswith(ATTRIBUTES)]
    file_ids = [name for name in names if is_id(name)]
    if file_ids:
        (target / folder).mkdir()
    results: list[tuple[str, int | str]] = []
    for file_id in file_ids:
        source, copy = root / folder / file_id, target / folder / file_id
        try:
            done = _copy_file(source, copy, before / folder / file_id if before is not None else None)
        except Deleted:
            copy.unlink(missing_ok=True)
        except (ValueError, msgspec.MsgspecError, Damaged) as error:
            copy.unlink(missing_ok=True)
            results.append((file_id, str(error)))
        else:
            results.append((file_id, done))
    return results


def _copy_file(source: Path, copy: Path, before: Path | None) -> int:
    """The bytes copied, or -1 when the file of the backup before was linked. An OSError is one of the backup's own disk."""
    for _ in range(ATTEMPTS):
        encoded = _read_attributes(source)
        if before is not None and _has(before, encoded) and _link(before, copy):
            return -1
        attributes = decode(encoded)
        size_bytes, checksum = _copy_bytes(source, copy)
        if (size_bytes, f"sha256:{checksum}") == (attributes.size_bytes, attributes.checksum):
            _write(_attributes_of(copy), encoded)
            return size_bytes
        if _read_attributes(source) == encoded:
            raise Damaged(f"{size_bytes} bytes with SHA-256 {checksum}, which its attr.json does not state")
    raise Damaged(f"changed {ATTEMPTS} times while it was copied")


def _link(before: Path, copy: Path) -> bool:
    """False where the disk has no hard links, or no more of this file."""
    copy.unlink(missing_ok=True)  # of the attempt before
    try:
        os.link(before, copy)
        os.link(_attributes_of(before), _attributes_of(copy))
    except OSError:
        copy.unlink(missing_ok=True)
        return False
    return True


@contextmanager
def _reading() -> Iterator[None]:
    """Tells the errors of the element's disk from those of the backup's."""
    try:
        yield
    except FileNotFoundError as error:
        raise Deleted from error
    except OSError as error:
        raise Damaged(str(error)) from error


def _read_attributes(source: Path) -> bytes:
    with _reading():
        return _attributes_of(source).read_bytes()


def _has(before: Path, encoded: bytes) -> bool:
    try:
        return _attributes_of(before).read_bytes() == encoded and before.exists()
    except OSError:
        return False


def _attributes_of(data: Path) -> Path:
    return data.with_name(data.name + ATTRIBUTES)


def _copy_bytes(source: Path, copy: Path) -> tuple[int, str]:
    sha256, size_bytes = hashlib.sha256(), 0
    with _reading():
        reader = source.open("rb", buffering=0)
    with reader, copy.open("wb") as writer:  # buffered: a write on its own may be short
        os.fchmod(writer.fileno(), 0o600)
        while True:
            with _reading():
                piece = reader.read(PIECE_BYTES)
            if not piece:
                return size_bytes, sha256.hexdigest()
            sha256.update(piece)
            size_bytes += len(piece)
            writer.write(piece)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)

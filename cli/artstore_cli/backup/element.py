"""Copies the files of an element while it serves, and links those that the backup before has already.

A file is copied whole or not at all: its attr.json is read first, and the bytes must have the hash that it states. If they
do not, the file was changed meanwhile, and both are read again. Its attr.json is written last, as in the store.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from artstore.contracts.files import decode

from .files import ATTRIBUTES, FIRST_FOLDERS, Damaged, Deleted, Files
from .s3_files import BINDING

IDENTITY = "element.json"
ATTEMPTS = 3
"""Each repeats only when a client changed the file during the attempt before."""


@dataclass(slots=True)
class ElementCopy:
    """The result of one backup of an element."""

    element_id: str
    files: int = 0
    copied: int = 0
    copied_bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    """File ids that could not be copied, with the reason."""

    def add(self, file_id: str, done: int | str) -> None:
        """`done`: the bytes that were copied, or -1 for a link, or the reason of a failure."""
        if isinstance(done, str):
            self.damaged.append(f"{file_id}: {done}")
            return
        self.files += 1
        if done >= 0:
            self.copied += 1
            self.copied_bytes += done


def copy_element(root: Path, files: Files, target: Path, before: Path | None) -> ElementCopy:
    """`before`: this element in the last complete backup on the same file system. Nothing of `target` exists yet."""
    copy = ElementCopy(target.name)
    for first in FIRST_FOLDERS:  # also empty ones: a root without any looks like a disk that is not mounted
        (target / "files" / first).mkdir(parents=True)
    threads = ThreadPoolExecutor(files.threads)
    try:
        for results in threads.map(partial(_copy_unit, files, target, before), files.units()):
            for file_id, done in results:
                copy.add(file_id, done)
    finally:
        threads.shutdown(cancel_futures=True)  # one that failed ends the backup: the rest need not be copied
    for name in (IDENTITY, BINDING):
        if (root / name).exists():
            shutil.copyfile(root / name, target / name)
    return copy


def _copy_unit(files: Files, target: Path, before: Path | None, unit: str) -> list[tuple[str, int | str]]:
    results: list[tuple[str, int | str]] = []
    for path in files.paths_in(unit):
        copy = target / path
        copy.parent.mkdir(exist_ok=True)
        try:
            done = _copy_file(files, path, copy, before / path if before is not None else None)
        except Deleted:
            copy.unlink(missing_ok=True)
        except (ValueError, msgspec.MsgspecError, Damaged) as error:
            copy.unlink(missing_ok=True)
            results.append((copy.name, str(error)))
        else:
            results.append((copy.name, done))
    return results


def _copy_file(files: Files, path: str, copy: Path, before: Path | None) -> int:
    """The bytes copied, or -1 when the file of the backup before was linked. An OSError is one of the backup's own disk."""
    for _ in range(ATTEMPTS):
        encoded = files.read_attributes(path)
        if before is not None and _has(before, encoded) and _link(before, copy):
            return -1
        attributes = decode(encoded)
        try:
            size_bytes, checksum = _copy_bytes(files, path, copy)
        except Deleted:
            # A delete removes attr.json first, so a file that keeps it has lost its data.
            if files.read_attributes(path) == encoded:
                raise Damaged("its data is missing") from None
            continue
        if (size_bytes, f"sha256:{checksum}") == (attributes.size_bytes, attributes.checksum):
            _write(_attributes_of(copy), encoded)
            return size_bytes
        if files.read_attributes(path) == encoded:
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


def _has(before: Path, encoded: bytes) -> bool:
    try:
        if _attributes_of(before).read_bytes() != encoded:
            return False
        return before.stat().st_size == decode(encoded).size_bytes
    except OSError:
        return False


def _attributes_of(data: Path) -> Path:
    return data.with_name(data.name + ATTRIBUTES)


def _copy_bytes(files: Files, path: str, copy: Path) -> tuple[int, str]:
    sha256, size_bytes = hashlib.sha256(), 0
    with copy.open("wb") as writer:  # buffered: a write on its own may be short
        os.fchmod(writer.fileno(), 0o600)
        for piece in files.read(path):
            sha256.update(piece)
            size_bytes += len(piece)
            writer.write(piece)
    return size_bytes, sha256.hexdigest()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)

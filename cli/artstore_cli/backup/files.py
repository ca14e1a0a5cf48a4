"""Reads the files of an element while it serves: from its folder, or from its bucket (s3_files.py)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from artstore.contracts.files import is_id

ATTRIBUTES = ".attr.json"
PIECE_BYTES = 1 << 20
FIRST_FOLDERS = tuple(f"{number:02x}" for number in range(256))


class Damaged(Exception):
    """The file cannot be read, or its bytes are not those that attr.json states, and no client has changed them meanwhile."""


class Deleted(Exception):
    """The file was deleted since it was listed."""


class Files(Protocol):
    """A path is that of the data, as `files/3f/a2/<file_id>`, below the root or the prefix. Reads raise Deleted or Damaged."""

    threads: int
    """How many copies at once are worth it."""

    def units(self) -> Iterable[str]:
        """Parts of the element that can be listed one by one."""

    def paths_in(self, unit: str) -> list[str]:
        """The paths of the files in a unit; foreign files are left out."""

    def read_attributes(self, path: str) -> bytes: ...

    def read(self, path: str) -> Iterator[bytes]: ...


class LocalFiles:
    """An OSError is the file's: the disk of the backup is not read here."""

    threads = 4

    def __init__(self, root: Path) -> None:
        self._root = root

    def units(self) -> Iterator[str]:
        for first in _folders(self._root / "files"):
            for second in _folders(self._root / "files" / first):
                yield f"files/{first}/{second}"

    def paths_in(self, unit: str) -> list[str]:
        names = [name.removesuffix(ATTRIBUTES) for name in os.listdir(self._root / unit) if name.endswith(ATTRIBUTES)]
        return [f"{unit}/{name}" for name in names if is_id(name)]

    def read_attributes(self, path: str) -> bytes:
        with _reading():
            return (self._root / f"{path}{ATTRIBUTES}").read_bytes()

    def read(self, path: str) -> Iterator[bytes]:
        with _reading():
            file = (self._root / path).open("rb", buffering=0)
        with file:
            while True:
                with _reading():
                    piece = file.read(PIECE_BYTES)
                if not piece:
                    return
                yield piece


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise Deleted from error
    except OSError as error:
        raise Damaged(str(error)) from error

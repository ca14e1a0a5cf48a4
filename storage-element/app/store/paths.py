"""Names on disk. A file's folder is named after the last two bytes of its id, which are random in a UUIDv7."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from artstore.contracts.files import is_id
from artstore.errors import Malformed

ATTRIBUTES_SUFFIX = ".attr.json"
RECORD_SUFFIX = ".json"
"""Ends the name of the record of an unfinished upload."""
FAN_OUT = tuple(f"{byte:02x}" for byte in range(256))


def check_file_id(text: str) -> str:
    """Returns the id, which is then safe in a path. Raises Malformed for anything but a UUID in its canonical form."""
    if not is_id(text):
        raise Malformed("file_id must be a UUID in its canonical form")
    return text


def folder_of(file_id: str) -> str:
    """The file's folder below files/: "3f/a2"."""
    return f"{file_id[-4:-2]}/{file_id[-2:]}"


ID_CHARS = 36
"""The length of a UUID in canonical form."""


def belongs(name: str, first: str, second: str) -> bool:
    """True if the name is a file id in the right folder. Any other name there is a stray and left alone."""
    return is_id(name) and name[-4:] == first + second


def count_quarantined(names: Iterable[str]) -> int:
    """The files that these names in the quarantine belong to. A file has two, and more after it came back and was
    quarantined again."""
    return len({name[:ID_CHARS] for name in names if is_id(name[:ID_CHARS])})


def printable(name: str) -> str:
    r"""A name from the disk as text: bytes that are not UTF-8 are shown as \xff."""
    return os.fsencode(name).decode(errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class Paths:
    """Every name under one root, as text: os calls take it faster than a Path."""

    root: str
    """Pinned, this is the name of a descriptor and always leads to the root that was opened."""

    def pinned(self, fd: int) -> Paths:
        """The same root through an open descriptor, so that nothing is written to another folder mounted in its place later."""
        pinned = f"/proc/self/fd/{fd}"
        return Paths(pinned) if os.path.isdir(pinned) else self

    @property
    def files(self) -> str:
        return f"{self.root}/files"

    @property
    def temps(self) -> str:
        return f"{self.root}/tmp"

    @property
    def wal(self) -> str:
        return f"{self.root}/wal"

    @property
    def unreadable_frames(self) -> str:
        """Copies of unreadable WAL frames, kept for a person."""
        return f"{self.root}/wal-aside"

    @property
    def quarantine(self) -> str:
        return f"{self.root}/quarantine"

    @property
    def upkeep(self) -> str:
        """The journal of upkeep."""
        return f"{self.root}/upkeep"

    @property
    def uploads(self) -> str:
        """Unfinished resumable uploads: the bytes, and a record beside them."""
        return f"{self.root}/uploads"

    @property
    def element(self) -> str:
        return f"{self.root}/element.json"

    @property
    def lock(self) -> str:
        return f"{self.root}/lock"

    def folder(self, file_id: str) -> str:
        return f"{self.root}/files/{file_id[-4:-2]}/{file_id[-2:]}"

    def data(self, file_id: str) -> str:
        return f"{self.root}/files/{file_id[-4:-2]}/{file_id[-2:]}/{file_id}"

    def attributes(self, file_id: str) -> str:
        return f"{self.root}/files/{file_id[-4:-2]}/{file_id[-2:]}/{file_id}{ATTRIBUTES_SUFFIX}"

    def temp(self, name: str) -> str:
        return f"{self.root}/tmp/{name}"

    def upload(self, upload_id: str) -> str:
        return f"{self.root}/uploads/{upload_id}"

    def upload_record(self, upload_id: str) -> str:
        return f"{self.root}/uploads/{upload_id}{RECORD_SUFFIX}"

    def moved_between(self) -> tuple[str, ...]:
        """Folders that must be on one file system: files move between them by rename, and one syncfs covers them."""
        first_level = (f"{self.root}/files/{name}" for name in FAN_OUT)
        return (
            self.files,
            self.temps,
            self.wal,
            self.unreadable_frames,
            self.quarantine,
            self.upkeep,
            self.uploads,
            *first_level,
        )

    def made_once(self) -> tuple[str, ...]:
        """Folders that are created at the first start."""
        return (self.root, *self.moved_between())

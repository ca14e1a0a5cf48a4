"""Scans of the folders of a local disk: walks in order, and surveys that read only names and sizes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from artstore.logs import get_logger

from ..paths import ATTRIBUTES_SUFFIX, FAN_OUT, Paths, belongs, printable
from .base import FileEntry

UNKNOWN_BYTES = -1
"""The size of data that the disk cannot read."""

log = get_logger("element.store")


class LocalScan:
    """The methods of the local backend that scan many files."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.unreadable_folders: set[str] = set()
        """Folders that the disk could not list; a scrub reports them."""

    def survey(self, first: str) -> list[FileEntry]:
        seen: list[FileEntry] = []
        for second in self._names(f"{self.paths.files}/{first}"):
            seen += self._survey_folder(f"{self.paths.files}/{first}/{second}")
        return seen

    def walk(self, after: str = "") -> Iterator[str]:
        start = (after[-4:-2], after[-2:], after)
        files = self.paths.files
        for first in FAN_OUT:
            if first < start[0]:
                continue
            for second in sorted(self._names(f"{files}/{first}")):
                if (first, second) < start[:2]:
                    continue
                for name in sorted(self._names(f"{files}/{first}/{second}")):
                    file_id = name.removesuffix(ATTRIBUTES_SUFFIX)
                    if file_id != name and (first, second, file_id) > start and belongs(file_id, first, second):
                        yield file_id

    def walk_strays(self) -> Iterator[str]:
        files, names = self.paths.files, frozenset(FAN_OUT)
        for first in sorted(self._names(files)):
            if first not in names:
                yield printable(f"files/{first}")
                continue
            for second in sorted(self._names(f"{files}/{first}")):
                if second not in names:
                    yield printable(f"files/{first}/{second}")
                    continue
                for name in sorted(self._names(f"{files}/{first}/{second}")):
                    if not belongs(name.removesuffix(ATTRIBUTES_SUFFIX), first, second):
                        yield printable(f"files/{first}/{second}/{name}")

    def _survey_folder(self, folder: str) -> list[FileEntry]:
        """One listing, and one stat for each file. Strays are left alone."""
        first, second = folder.split("/")[-2:]
        names = self._names(folder)
        with_attributes = {name.removesuffix(ATTRIBUTES_SUFFIX) for name in names if name.endswith(ATTRIBUTES_SUFFIX)}
        seen: list[FileEntry] = []
        for file_id in sorted({*with_attributes, *names}):
            if not belongs(file_id, first, second):
                continue
            has_attributes = file_id in with_attributes
            try:
                status = os.stat(f"{folder}/{file_id}", follow_symlinks=False)
                seen.append(FileEntry(file_id, has_attributes, status.st_size, status.st_ctime))
            except FileNotFoundError:
                seen += self._without_data(folder, file_id) if has_attributes else []
            except OSError as error:
                # The file exists, and the disk cannot read more: a check under its lock will report it.
                log.error("file unreadable", file_id=file_id, error=str(error))
                seen.append(FileEntry(file_id, has_attributes, UNKNOWN_BYTES, time.time()))
        return seen

    def _without_data(self, folder: str, file_id: str) -> list[FileEntry]:
        try:
            status = os.stat(f"{folder}/{file_id}{ATTRIBUTES_SUFFIX}", follow_symlinks=False)
        except FileNotFoundError:
            return []  # deleted since
        except OSError:
            return [FileEntry(file_id, True, None, time.time())]
        return [FileEntry(file_id, True, None, status.st_ctime)]

    def _names(self, folder: str) -> list[str]:
        """Empty for a folder that does not exist, or that cannot be read: that is logged, and hides no other
        folder."""
        try:
            return os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            log.error("folder unreadable", folder=folder, error=str(error))
            self.unreadable_folders.add(folder)
            return []

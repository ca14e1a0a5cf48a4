"""Checks of an element's root: before it is used (complete, on one file system), and while it is used (`Presence`).

A disk that is unmounted, or a folder that is moved away, leaves an empty place in which every file looks deleted. The store
works through a descriptor of the root, so it never writes to that place; `Presence` reports it to everything else.
"""

from __future__ import annotations

import os

from artstore.errors import Unavailable

from . import durable
from .identity import RootRefused
from .paths import FAN_OUT, Paths

PROBE = "file-system-probe"


def require_complete(paths: Paths) -> None:
    """A root that was used before must have its folders: they are not made again. Raises RootRefused."""
    if not any(os.path.isdir(f"{paths.files}/{first}") for first in FAN_OUT):
        raise RootRefused(f"{paths.files} is missing or empty, but {paths.element} is there: is everything mounted?")


def require_one_filesystem(paths: Paths) -> None:
    """Files move between the folders by rename, and one syncfs covers all of them. Raises RootRefused."""
    if not os.path.isdir(paths.root):
        return
    device = os.stat(paths.root).st_dev
    for folder in paths.moved_between():
        try:
            elsewhere = os.stat(folder).st_dev != device
        except FileNotFoundError:
            if os.path.islink(folder):
                raise RootRefused(f"{folder} is a dangling symbolic link") from None
            continue
        if elsewhere:
            raise _apart(folder, paths)


def require_renames(paths: Paths) -> None:
    """Bind mounts, quotas and overlays can refuse a rename inside one device, so try one. Raises RootRefused."""
    probe = paths.temp(PROBE)
    durable.remove(probe)
    durable.write_new(probe, [])
    for folder in (f"{paths.files}/00", paths.quarantine, paths.temps):
        moved = f"{folder}/{PROBE}"
        try:
            durable.rename(probe, moved)
        except OSError as error:
            durable.remove(probe)
            raise _apart(folder, paths) from error
        probe = moved
    durable.remove(probe)


def _apart(folder: str, paths: Paths) -> RootRefused:
    return RootRefused(f"{folder} is on another file system than {paths.root}: everything below it must be on one")


class Presence:
    """Checks that `path`, the root as the operator knows it, still leads to the root that is open as `fd` and `opened`."""

    def __init__(self, path: str, fd: int, opened: Paths, *, local_files: bool) -> None:
        self._path, self._fd, self._opened = path, fd, opened.root
        self._watched = ("element.json", "files/00" if local_files else "tmp")
        self._identity = _identity_of(os.fstat(fd))

    def require(self) -> None:
        """Raises Unavailable."""
        fault = self.find_fault()
        if fault is not None:
            raise Unavailable(fault)

    def find_fault(self) -> str | None:
        """Costs three system calls while there is none, answered from the kernel's caches."""
        return None if self._is_there() else self._explain()

    def _is_there(self) -> bool:
        """In the same folder the same names lead to the same files, so they only need to be there."""
        try:
            for name in self._watched:
                os.stat(name, dir_fd=self._fd)
            return _identity_of(os.stat(self._path)) == self._identity
        except OSError:
            return False

    def _explain(self) -> str | None:
        for name in self._watched:
            try:
                there = os.stat(f"{self._path}/{name}")
            except OSError as error:
                return f"the root is gone: STORAGE_ROOT/{name}: {error.strerror}; is its disk mounted?"
            try:
                opened = os.stat(f"{self._opened}/{name}")
            except OSError as error:
                return f"the root that was opened does not answer: {error.strerror}; restart needed"
            if _identity_of(there) != _identity_of(opened):
                return "STORAGE_ROOT is not the folder that was opened: restart needed"
        return None


def _identity_of(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino

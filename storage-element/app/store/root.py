"""What a root must be like to be used: whole, of one backend, on one file system. Checked before anything is written."""

from __future__ import annotations

import os

from . import durable
from .identity import RootRefused
from .paths import FAN_OUT, Paths

PROBE = "file-system-probe"


def require_whole(paths: Paths) -> None:
    """For a root that was used before, with its files on this disk: its folders are not made again. Raises RootRefused."""
    if not any(os.path.isdir(f"{paths.files}/{first}") for first in FAN_OUT):
        raise RootRefused(f"{paths.files} is missing or empty, but {paths.element} is there: is everything mounted?")


def require_one_filesystem(paths: Paths) -> None:
    """Of the folders that are there. Files move between them by rename, and one sync covers all. Raises RootRefused."""
    if not os.path.isdir(paths.root):
        return
    device = os.stat(paths.root).st_dev
    for folder in paths.moved_between():
        try:
            elsewhere = os.stat(folder).st_dev != device
        except FileNotFoundError:
            if os.path.islink(folder):
                raise RootRefused(f"{folder} is a link that leads nowhere") from None
            continue
        if elsewhere:
            raise _apart(folder, paths)


def require_renames(paths: Paths) -> None:
    """Also bind mounts, quotas and layers can refuse a rename inside one device. Raises RootRefused."""
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

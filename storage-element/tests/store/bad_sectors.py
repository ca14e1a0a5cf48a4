"""A disk that does not give some files: errors for reads of chosen paths, at the boundary to the operating system."""

from __future__ import annotations

import os
from typing import Any


class BadSectors:
    """Stands for `os` in the backend: reads of the paths in `bad` fail."""

    def __init__(self) -> None:
        self.bad: dict[str, int] = {}
        self.opens: dict[str, int] = {}
        self._fds: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, *arguments: Any) -> int:
        if path in self.opens:
            raise OSError(self.opens[path], os.strerror(self.opens[path]))
        fd = os.open(path, *arguments)
        self._fds[fd] = path
        return fd

    def read(self, fd: int, size: int) -> bytes:
        self._check(fd)
        return os.read(fd, size)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        self._check(fd)
        return os.pread(fd, size, offset)

    def preadv(self, fd: int, *arguments: Any) -> int:
        self._check(fd)
        return os.preadv(fd, *arguments)

    def listdir(self, path: str) -> list[str]:
        if path in self.bad:
            raise OSError(self.bad[path], os.strerror(self.bad[path]))
        return os.listdir(path)

    def _check(self, fd: int) -> None:
        number = self.bad.get(self._fds.get(fd, ""))
        if number is not None:
            raise OSError(number, os.strerror(number))

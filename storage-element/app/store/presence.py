"""Whether the root's path still leads to the root that was opened.

A disk that is unmounted or a folder that is moved away leaves an empty place, in which every file looks deleted. The store
itself works through a descriptor of the root and so never writes to that place; this is how the rest learns of it.
"""

from __future__ import annotations

import os

from artstore.errors import Unavailable

from .paths import Paths


class Presence:
    """`path` is the root as the operator knows it, `opened` the same root through its descriptor."""

    def __init__(self, path: str, opened: Paths, *, files_here: bool) -> None:
        self._path, self._opened = path, opened.root
        self._watched = ("element.json", "files/00" if files_here else "tmp")

    def require(self) -> None:
        """Raises Unavailable. Costs a few system calls that the kernel answers from memory."""
        gone = self.find_fault()
        if gone is not None:
            raise Unavailable(gone)

    def find_fault(self) -> str | None:
        for name in self._watched:
            try:
                there = os.stat(f"{self._path}/{name}")
            except OSError as error:
                return f"the root is gone: {self._path}/{name}: {error.strerror}; is its disk mounted?"
            try:
                opened = os.stat(f"{self._opened}/{name}")
            except OSError as error:
                return f"the root that was opened does not answer: {error.strerror}; restart needed"
            if (there.st_dev, there.st_ino) != (opened.st_dev, opened.st_ino):
                return f"{self._path} is not the root that was opened: restart needed"
        return None

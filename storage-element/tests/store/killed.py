"""A process that works on a store until a point kills it: python -m tests.store.killed ROOT JOURNAL SIZE.

JOURNAL says what was begun and what was acknowledged: afterwards nothing else may be found.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec

from app.store.checkpoint import checkpoint
from app.store.delete import delete
from app.store.store import Store
from app.store.update import RewriteOrder, patch, rewrite
from artstore import points
from artstore.clock import uuid7
from artstore.contracts.files import Changes

from .support import RememberingCatalog, body_of, opened, put_bytes

State = tuple[str, int] | None
"""SHA-256 and revision; None for a file that is not there."""


class Journal:
    """What a file is to become, written down before; and again once it was acknowledged."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def note(self, what: str, file_id: str, content: bytes | None, revision: int) -> None:
        state = None if content is None else (hashlib.sha256(content).hexdigest(), revision)
        self._file.write(msgspec.json.encode([what, file_id, state]) + b"\n")


def allowed_states(path: Path) -> dict[str, list[State]]:
    """Per file: the state acknowledged last, and the one that was being made when the process died, if any."""
    allowed: dict[str, list[State]] = {}
    for line in path.read_bytes().splitlines():
        what, file_id, state = msgspec.json.decode(line, type=tuple[str, str, State])
        if what == "done":
            allowed[file_id] = [state]
        else:
            allowed.setdefault(file_id, [None]).append(state)
    return allowed


async def work(store: Store, journal: Journal, size: int) -> None:
    """Every verb, twice, each file changed while the log still has its first revision."""
    for _ in range(2):
        kept, gone, first, second = str(uuid7()), str(uuid7()), os.urandom(size), os.urandom(size)
        steps: list[tuple[str, bytes | None, int, Callable[[], Awaitable[object]]]] = [
            (kept, first, 1, partial(put_bytes, store, first, file_id=kept)),
            (kept, first, 2, partial(patch, store, kept, Changes(tags=["patched"]), None)),
            (gone, first, 1, partial(put_bytes, store, first, file_id=gone)),
            (kept, second, 3, partial(_rewrite, store, kept, second)),
            (gone, None, 2, partial(delete, store, gone)),
        ]
        for file_id, content, revision, step in steps:
            journal.note("begun", file_id, content, revision)
            await step()
            journal.note("done", file_id, content, revision)
        await checkpoint(store)


async def _rewrite(store: Store, file_id: str, content: bytes) -> None:
    await rewrite(store, RewriteOrder(file_id), body_of(content))


async def main() -> None:
    root, journal, size = Path(sys.argv[1]), Journal(Path(sys.argv[2])), int(sys.argv[3])
    points.arm(os.environ)
    async with opened(root, RememberingCatalog()) as store:
        await work(store, journal, size)


if __name__ == "__main__":
    asyncio.run(main())

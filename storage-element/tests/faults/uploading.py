"""An element's store under load, as a process that the power is cut from: python -m tests.faults.uploading ROOT NOTES STEPS.

Several at once change files of their own, small and large, so that they share syncs, checkpoints and folders.
"""

from __future__ import annotations

import asyncio
import sys
import time
from itertools import count
from pathlib import Path
from random import Random

import msgspec

from app.store.store import Store
from app.store.unfinished import Uploads
from artstore.contracts.uploads import NewUpload

from ..store.support import new_file, opened
from .journal import Journal, KeptCatalog
from .work import LARGE_BYTES, SMALL_BYTES, TTL_S, Work, append_to, catalog_of, journal_of

AT_ONCE = 8
MOST_FILES = 12
SEGMENT_BYTES = 256 << 10
REMOVED = -1
"""Instead of an offset: the removal of the upload has begun."""


async def main() -> None:
    root, notes, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    catalog, journal = KeptCatalog(catalog_of(notes)), Journal(journal_of(notes))
    async with opened(root, catalog, segment_bytes=SEGMENT_BYTES) as store, asyncio.TaskGroup() as group:
        changes = [
            group.create_task(change(store, journal, catalog, Random(number), steps)) for number in range(AT_ONCE)
        ]
        group.create_task(upload(Work(store, journal, catalog), Offsets(offsets_of(notes)), changes))


async def change(store: Store, journal: Journal, catalog: KeptCatalog, random: Random, steps: int) -> None:
    work = Work(store, journal, catalog, random)
    for _ in range(steps):
        size = (
            random.randrange(LARGE_BYTES, 3 * LARGE_BYTES) if random.random() < 0.2 else random.randrange(SMALL_BYTES)
        )
        file_ids = work.file_ids
        verbs = ["put", "put", "refused", "patch", "rewrite", "delete", "confirm"]
        verb = random.choice(verbs) if file_ids else "put"
        if len(file_ids) >= MOST_FILES:
            verb = "delete"
        if verb == "put":
            await work.put(size)
        elif verb == "refused":
            await work.put_refused(size)
        elif verb == "confirm":
            await work.confirm(random.choice(file_ids))
        elif verb == "patch":
            await work.patch(random.choice(file_ids))
        elif verb == "rewrite":
            await work.rewrite(random.choice(file_ids), size)
        else:
            await work.delete(random.choice(file_ids))


class Offsets:
    """The answers to resumable uploads. The content of upload N is `content_of(N)`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def note(self, upload_id: str, number: int, offset: int) -> None:
        self._file.write(msgspec.json.encode([time.monotonic_ns(), upload_id, number, offset]) + b"\n")


def offsets_of(notes: Path) -> Path:
    return notes.with_suffix(".offsets")


def content_of(number: int) -> bytes:
    return Random(number).randbytes(2 * LARGE_BYTES)


def acknowledged_offsets(path: Path, until_ns: int) -> dict[str, tuple[int, int]]:
    """By upload: its number and the offset answered last before `until_ns`."""
    lines = (msgspec.json.decode(line, type=tuple[int, str, int, int]) for line in path.read_bytes().splitlines())
    return {upload_id: (number, offset) for at_ns, upload_id, number, offset in lines if at_ns <= until_ns}


async def upload(work: Work, offsets: Offsets, others: list[asyncio.Task[None]]) -> None:
    """Resumable uploads, one after the other while the others work: every third is removed, the rest are completed."""
    uploads = Uploads(work.store, TTL_S)
    uploads.load()
    for number in count():
        if all(task.done() for task in others):
            return
        content = content_of(number)
        upload = await uploads.create("account", NewUpload(new=new_file(), length=len(content)))
        offsets.note(upload.id, number, 0)
        for end in (SMALL_BYTES, LARGE_BYTES, len(content)):
            await append_to(uploads, upload, content[upload.record.offset : end])
            offsets.note(upload.id, number, upload.record.offset)
        if number % 3 == 2:
            offsets.note(upload.id, number, REMOVED)
            await uploads.remove(upload)
        else:
            assert await work.complete(uploads, upload, content)


if __name__ == "__main__":
    asyncio.run(main())

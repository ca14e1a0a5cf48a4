"""An element's store under load, as a process that the power is cut from: python -m tests.faults.uploading ROOT NOTES STEPS.

Several at once change files of their own, small and large, so that they share syncs, checkpoints and folders.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from random import Random

from app.store.store import Store

from ..store.support import opened
from .journal import Journal, KeptCatalog
from .work import LARGE_BYTES, SMALL_BYTES, Work, catalog_of, journal_of

AT_ONCE = 8
MOST_FILES = 12
SEGMENT_BYTES = 256 << 10


async def main() -> None:
    root, notes, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    catalog, journal = KeptCatalog(catalog_of(notes)), Journal(journal_of(notes))
    async with opened(root, catalog, segment_bytes=SEGMENT_BYTES) as store, asyncio.TaskGroup() as group:
        for number in range(AT_ONCE):
            group.create_task(change(store, journal, catalog, Random(number), steps))


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


if __name__ == "__main__":
    asyncio.run(main())

"""The power is cut at random moments of a load, on ext4 and on xfs; everything acknowledged before is there afterwards.

A copy of the image of a live loop device is not a power cut: it contains blocks of different moments, so it may have a later
write without an earlier one that a flush had ordered, a state that no disk can be left in. Freezing the file system for the copy
makes it too clean. So the test uses its own disk (`recording.py`), which records every write and flush in the order in which the
kernel sent them. An image for any moment is made from that record: all writes before the last answered flush, and of those after
it all (a disk without a cache) or any (a volatile cache loses and reorders them, page by page, one page torn). The journals use
the same clock, so the operations acknowledged before that moment are known exactly.
"""

from __future__ import annotations

import asyncio
import mmap
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec
import pytest

from app.store.store import Store
from app.store.unfinished import Record, Uploads

from ..store.support import opened
from .disks import MAKE, MODULE, loop_device, mounted, new_image, recorded_disk, why_not
from .invariants import check_invariants
from .journal import KeptCatalog, allowed_states, confirmed_files
from .lengths import LONG
from .recording import ENTRY, FLUSH
from .uploading import REMOVED, SEGMENT_BYTES, acknowledged_offsets, content_of, offsets_of
from .work import TTL_S, catalog_of, journal_of

CUTS = 60 if LONG else 4
STEPS = 60 if LONG else 15
LOAD_TIMEOUT_S = 120
PAGE_BYTES, SECTOR_BYTES = 4096, 512


@dataclass(frozen=True, slots=True)
class Write:
    """`data` of a flush is None."""

    at_ns: int
    offset: int
    data: bytes | None


@pytest.mark.parametrize("kind", MAKE)
async def test_a_power_cut_loses_nothing_that_was_acknowledged(kind: str) -> None:
    reason = why_not(kind)
    if reason is not None and LONG:
        pytest.fail(f"no power cuts on {kind}: {reason}")
    if reason is not None:
        pytest.skip(f"NOT PROVEN here: no power cuts on {kind}, because {reason}")
    with scratch() as folder:
        notes = folder / "notes"
        with recorded_disk(folder, kind) as disk:
            load(disk.mountpoint / "root", notes)
        writes = list(read_record(disk.record))
        found = []
        for seed, cut in enumerate(chosen_cuts(writes, notes)):
            cut_off = image_at(writes, cut, Random(seed), folder / "cut.img", disk.size_bytes)
            with loop_device(cut_off) as device, mounted(device, folder / "cut") as mountpoint:
                found.append(await check_recovered(mountpoint / "root", notes, writes[cut].at_ns, f"seed {seed}"))
    flushes = sum(write.data is None for write in writes)
    print(f"{kind}: {len(found)} images of {len(writes) - flushes} writes, {flushes} flushes; files found {found}")
    assert max(found) > 0


def load(root: Path, notes: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.uploading", str(root), str(notes), str(STEPS)],
        cwd=MODULE,
        timeout=LOAD_TIMEOUT_S,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def read_record(record: Path) -> Iterator[Write]:
    with record.open("rb") as file:
        while head := file.read(ENTRY.size):
            at_ns, offset, size_bytes = ENTRY.unpack(head)
            yield Write(at_ns, offset, None if offset == FLUSH else file.read(size_bytes))


def chosen_cuts(writes: list[Write], notes: Path) -> list[int]:
    """Numbers of writes, in the order of time, none before the store's first answer. The cut comes just before that write."""
    began_ns = min(int(line[1:].split(b",")[0]) for line in catalog_of(notes).read_bytes().splitlines())
    first = next(number for number, write in enumerate(writes) if write.at_ns > began_ns)
    return sorted(Random(CUTS).sample(range(first, len(writes)), CUTS))


def image_at(writes: list[Write], cut: int, random: Random, image: Path, size_bytes: int) -> Path:
    """A disk that held back whatever it liked since the last flush; every fourth one held back nothing."""
    last_flush = max(number for number, write in enumerate(writes[:cut]) if write.data is None)
    kept_share = random.choice([1.0, 0.0, 0.5, 0.9])
    with new_image(image, size_bytes).open("r+b") as file, mmap.mmap(file.fileno(), size_bytes) as disk:
        for number, write in enumerate(writes[:cut]):
            if write.data is None:
                continue
            if number < last_flush or kept_share == 1.0:
                disk[write.offset : write.offset + len(write.data)] = write.data
            else:
                _keep_some(disk, write.offset, write.data, random, kept_share)
    return image


def _keep_some(disk: mmap.mmap, offset: int, data: bytes, random: Random, share: float) -> None:
    for start in range(0, len(data), PAGE_BYTES):
        page = data[start : start + PAGE_BYTES]
        if random.random() >= share:
            continue
        if random.random() < 0.1:
            page = page[: random.randrange(0, len(page), SECTOR_BYTES)]
        disk[offset + start : offset + start + len(page)] = page


async def check_recovered(root: Path, notes: Path, until_ns: int, what: str) -> int:
    """How many files were found. Twice, since the recovery's own state must do as well."""
    catalog = KeptCatalog(catalog_of(notes), until_ns)
    found = {}
    for _ in range(2):
        async with asyncio.timeout(LOAD_TIMEOUT_S), opened(root, catalog, segment_bytes=SEGMENT_BYTES) as store:
            found = check_invariants(
                root,
                allowed=allowed_states(journal_of(notes), until_ns),
                catalog=catalog.revisions(),
                open_intents=len(store.wal.open) + len(store.unsettled),
            )
            assert store.findings.damaged == 0, what
            assert not store.unconfirmed.keys() & confirmed_files(journal_of(notes), until_ns), what
            check_uploads(store, root, notes, until_ns)
    return len(found)


def check_uploads(store: Store, root: Path, notes: Path, until_ns: int) -> None:
    """Each upload goes on at an offset that was answered or a later one, with the right bytes below it."""
    Uploads(store, TTL_S).load()
    assert not store.findings.damaged
    for upload_id, (number, offset) in acknowledged_offsets(offsets_of(notes), until_ns).items():
        path = root / "uploads" / f"{upload_id}.json"
        if offset == REMOVED and not path.exists():
            continue
        record = msgspec.json.decode(path.read_bytes(), type=Record)
        assert record.offset >= offset, f"upload {number}"
        if not record.committed:
            kept = path.with_name(upload_id).read_bytes()[: record.offset]
            assert kept == content_of(number)[: record.offset], f"upload {number}"


@contextmanager
def scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="artstore-power-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)

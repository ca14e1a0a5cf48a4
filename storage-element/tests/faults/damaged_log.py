"""A log that was truncated or has a wrong byte, after a crash that lost the names of all small files on disk.

The log is durable once it was synced, so only a broken medium truncates it or changes its bytes. Promised is then:
- a file with no damaged frame is exactly as acknowledged, and no file is found that was never put;
- a file with a damaged frame is whole, in one of the states in which it was acknowledged, or absent;
- as long as the files themselves exist (the process crashed, not the machine), one wrong byte loses nothing at all;
- removals are logged twice: no single byte brings back a deleted file or an undone put;
- so are confirmations: no single byte lets a compensation remove an acknowledged file.
"""

from __future__ import annotations

import asyncio
import enum
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from app.store.paths import ATTRIBUTES_SUFFIX
from app.store.pending import settle_all
from app.store.wal.records import Checkpoint, Intent, Kind, Mark, Step
from app.store.wal.segment import FIRST_FRAME_AT, SegmentRead, read_segment

from ..store.support import opened
from .invariants import check_invariants
from .journal import ABSENT, Journal, KeptCatalog, State, histories, refused_in
from .kills import in_child, scratch
from .work import LARGE_BYTES, Work, catalog_of, confirmed_of, journal_of

SEGMENT_BYTES = 64 << 10
BYTES = 40
CHUNK = 512
"""Damages that one worker does to one and the same log."""


class Damage(enum.StrEnum):
    FLIP = "flip"
    CUT = "cut"
    """The segment ends there."""
    ZERO = "zero"
    """From there on it is as it was before it was written."""


@dataclass(frozen=True, slots=True)
class Case:
    """One damage at `position` of the segment; `files_stand` False: the power went, and no small file's own name was on disk."""

    damage: Damage
    position: int
    files_stand: bool


@dataclass(frozen=True, slots=True)
class Touched:
    """The content and position of a frame. `twice`: a second frame has the same record."""

    file_id: str | None
    start: int
    end: int
    opens: bool
    twice: bool


async def _history(root: Path) -> None:
    """One file of each fate, and the process is gone before a checkpoint."""
    catalog, journal = KeptCatalog(catalog_of(root)), Journal(journal_of(root))
    async with opened(root, catalog, segment_bytes=SEGMENT_BYTES) as store:
        work = Work(store, journal, catalog)
        committed = await work.put(BYTES)
        store.confirm([committed])
        confirmed_of(root).write_text(committed)
        catalog.away = True
        await work.put(BYTES)
        catalog.away = False
        await settle_all(store)
        patched, rewritten, deleted = [await work.put(BYTES) for _ in range(3)]
        await work.patch(patched)
        await work.rewrite(rewritten, BYTES)
        await work.delete(deleted)
        large = await work.put(LARGE_BYTES)
        await work.patch(large)
        await work.put(BYTES)
        os._exit(0)


def make_log(root: Path) -> Path:
    """The one segment that has it all."""
    assert in_child(lambda: asyncio.run(_history(root)), None, root.with_suffix(".hits")).status == 0
    reads = {path: read_segment(str(path)) for path in (root / "wal").glob("*.wal")}
    (segment,) = [path for path, read in reads.items() if read is not None and len(read.frames) > 4]
    return segment


def frames_of(segment: Path) -> list[Touched]:
    read = read_segment(str(segment))
    assert isinstance(read, SegmentRead)
    ends = [frame.position for frame in read.frames[1:]]
    last = read.frames[-1]
    ends.append(last.position + 64)
    found = []
    for frame, end in zip(read.frames, ends, strict=True):
        record = frame.record
        deletes = isinstance(record, Intent) and record.kind is Kind.DELETE
        twice = (
            isinstance(record, Checkpoint) or deletes or (isinstance(record, Mark) and record.step is not Step.CLOSED)
        )
        file_id = getattr(record, "file_id", None)
        found.append(Touched(file_id, frame.position, end, isinstance(record, Intent), twice))
    return found


def all_cases() -> list[Case]:
    with scratch() as folder:
        end = frames_of(make_log(folder / "root"))[-1].end
    return [
        Case(damage, position, files_stand)
        for damage in Damage
        for position in ([*range(64), *range(2048, 2112), *range(FIRST_FRAME_AT, end)])
        for files_stand in (True, False)
    ]


def run_cases(cases: list[Case]) -> int:
    """The same history for all of them; returns how many frames were found unreadable."""
    with scratch() as folder:
        root = folder / "root"
        segment = make_log(root)
        frames = frames_of(segment)
        standing = {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        durable = {name: content for name, content in standing.items() if name not in unsynced(standing)}
        unreadable = 0
        for number, case in enumerate(cases):
            copied = folder / f"copy-{number}"
            for name, content in (standing if case.files_stand else durable).items():
                (copied / name).parent.mkdir(parents=True, exist_ok=True)
                (copied / name).write_bytes(content)
            for of in (catalog_of, confirmed_of):
                shutil.copyfile(of(root), of(copied))
            damage(copied / "wal" / segment.name, case)
            try:
                unreadable += asyncio.run(_recover(copied, allowed_after(journal_of(root), frames, case), case))
            except Exception as error:
                raise AssertionError(f"{case}: {error!r}") from error
        return unreadable


def unsynced(standing: dict[Path, bytes]) -> set[Path]:
    """Small files and their attributes: until a checkpoint their own names are in the page cache only."""
    small = {name for name, content in standing.items() if name.parts[0] == "files" and len(content) < LARGE_BYTES}
    return {name for name in small if name.with_name(name.name.removesuffix(ATTRIBUTES_SUFFIX)) in small}


def damage(segment: Path, case: Case) -> None:
    content = bytearray(segment.read_bytes())
    if case.damage is Damage.FLIP:
        content[case.position] ^= 1 << case.position % 8
    elif case.damage is Damage.CUT:
        del content[case.position :]
    else:
        content[case.position :] = bytes(len(content) - case.position)
    segment.write_bytes(content)


def allowed_after(journal: Path, frames: list[Touched], case: Case) -> dict[str, list[State]]:
    allowed: dict[str, list[State]] = {}
    for file_id, states in histories(journal).items():
        mine = [frame for frame in frames if frame.file_id == file_id]
        if case.damage is Damage.FLIP:
            hit = any(frame.start <= case.position < frame.end and not frame.twice for frame in mine)
            allowed[file_id] = states if hit and not case.files_stand else states[-1:]
        else:
            opened_before = sum(frame.opens and frame.end <= case.position for frame in mine)
            allowed[file_id] = states[min(opened_before, len(states) - 1) :]
    for file_id, state in refused_in(journal).items():
        # Only a log that was cut before it says so brings an undone put back: unconfirmed, so that its saga takes it away.
        allowed[file_id] = [ABSENT] if case.damage is Damage.FLIP else [ABSENT, state]
    return allowed


async def _recover(root: Path, allowed: dict[str, list[State]], case: Case) -> int:
    catalog = KeptCatalog(catalog_of(root))
    exact = case.damage is Damage.FLIP and case.files_stand
    async with opened(root, catalog, segment_bytes=SEGMENT_BYTES) as store:
        check_invariants(
            root,
            allowed=allowed,
            catalog=catalog.revisions() if exact else None,
            open_intents=len(store.wal.open) + len(store.unsettled),
        )
        if case.damage is Damage.FLIP:
            assert confirmed_of(root).read_text() not in store.unconfirmed
        return store.findings.unreadable_frames

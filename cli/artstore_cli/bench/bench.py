"""`./artstore bench`: starts both systems, puts the same load on them in turn, round after round, and reports medians."""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import CommandError, disk_error
from ..output import Output
from . import machine
from .fill import MIB, Paths, fill_artstore, fill_seaweedfs, make_big_file
from .load import NAME, Outcome, run
from .report import OURS, SIDES, THEIRS, Report, Sample
from .rows import Row, Side, rows
from .sides import ArtStore, SeaweedFS, running_artstore, running_seaweedfs, send

SETTLE_S = 0.5
"""Between two runs of load, after the disk's caches are written."""
TOUCHED_BYTES_SPARE = 256 * MIB
DISK_SPARE_BYTES = 4 << 30
"""For the databases, logs and small files of all rounds."""


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    seconds: float
    """How long the load of one row on one side lasts."""
    big_mib: int
    many: int
    """Small files that are stored beforehand and read cold, each in one round."""
    idle_seconds: float
    only: str = ""
    """A regular expression: only rows whose title it matches somewhere."""


DEFAULT = Plan(rounds=3, seconds=8, big_mib=1024, many=30_000, idle_seconds=20)
QUICK = Plan(rounds=1, seconds=2, big_mib=64, many=1_000, idle_seconds=5)


@dataclass(frozen=True, slots=True)
class Systems:
    artstore: ArtStore
    seaweedfs: SeaweedFS

    def memory_mb(self) -> dict[str, dict[str, float]]:
        return {"ArtStore": self.artstore.memory_mb(), "SeaweedFS": self.seaweedfs.memory_mb()}


def bench(root: Path, plan: Plan, data: Path, output: Path | None, out: Output) -> None:
    """Prints the table, or the JSON document, which is also written to `output`. Ends what it has started, also when it
    is interrupted. Raises CommandError, and KeyboardInterrupt also for SIGTERM and SIGHUP."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    if output is not None and not output.absolute().parent.is_dir():
        raise CommandError(f"{output}: the folder does not exist")
    try:
        re.compile(plan.only)
    except re.error as error:
        raise CommandError(f"--only {plan.only}: {error}") from None
    with _own_folder(data, plan) as folder:
        report = Report(plan=asdict(plan), machine=asdict(machine.Machine.of(folder)), versions=machine.versions(root))
        _touch_memory(plan)
        out.progress("starting ArtStore and SeaweedFS")
        with (
            running_artstore(root, folder / "artstore") as artstore,
            running_seaweedfs(folder / "seaweedfs") as seaweedfs,
        ):
            _measure(plan, folder, Systems(artstore, seaweedfs), report, out)
            out.progress("stopping")
    out.item(report.document(), "\n".join(report.lines()))
    if output is not None:
        output.write_text(json.dumps(report.document(), indent=1, ensure_ascii=False) + "\n")


@contextmanager
def _own_folder(data: Path, plan: Plan) -> Iterator[Path]:
    """A new folder, removed at the end. PostgreSQL may run as a user other than its owner, so others may pass through."""
    needed = 3 * (plan.rounds + 2) * plan.big_mib * MIB + DISK_SPARE_BYTES
    try:
        data.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(data).free
        if free < needed:
            raise CommandError(
                f"{data} has {free >> 30} GiB free and the bench may need {needed >> 30}; choose another --data, "
                "fewer --rounds or a smaller --big"
            )
        folder = Path(tempfile.mkdtemp(prefix="artstore-bench-", dir=data))
        folder.chmod(0o711)
    except OSError as error:
        raise disk_error(error, data) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _touch_memory(plan: Plan) -> None:
    """On a virtual machine the first touch of a page is slow, and would be charged to the side that writes first."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size_bytes = min(4 * plan.big_mib * MIB + TOUCHED_BYTES_SPARE, available // 2)
    with mmap.mmap(-1, size_bytes) as memory:
        for page in range(0, size_bytes, mmap.PAGESIZE):
            memory[page] = 1


def _measure(plan: Plan, folder: Path, systems: Systems, report: Report, out: Output) -> None:
    out.progress(f"both are ready; {plan.idle_seconds:g} s without requests")
    report.idle_cpu = _idle(plan, systems.artstore)
    out.progress(f"storing {plan.many} files on both sides")
    big = make_big_file(folder, plan.big_mib * MIB)
    our_paths = asyncio.run(fill_artstore(systems.artstore, folder, big, plan.many, plan.rounds))
    their_paths = asyncio.run(fill_seaweedfs(systems.seaweedfs, folder, big, plan.many, plan.rounds))
    report.memory_before_mb = systems.memory_mb()
    for number in range(plan.rounds):
        collection = f"round{number}"
        ours = _our_side(systems.artstore, our_paths)
        theirs = _their_side(systems.seaweedfs, their_paths, collection)
        first = theirs.write_path.replace(NAME, "first")
        send(systems.seaweedfs.filer_port, "PUT", first, b"first")  # creates the volumes of the collection
        for row in rows(ours, theirs, big, number):
            if re.search(plan.only, row.title):
                _measure_row(plan, row, number, systems, report, out)
        send(systems.seaweedfs.master_port, "POST", f"/col/delete?collection={collection}")  # gives the space back
    report.memory_after_mb = systems.memory_mb()


def _idle(plan: Plan, artstore: ArtStore) -> float:
    """Share of a core that the suite uses without requests."""
    began_s, cpu_s = time.monotonic(), artstore.cpu_s()
    time.sleep(plan.idle_seconds)
    return (artstore.cpu_s() - cpu_s) / (time.monotonic() - began_s)


def _our_side(artstore: ArtStore, paths: Paths) -> Side:
    """With a new token, which outlasts a round."""
    headers = {"Authorization": f"Bearer {artstore.token()}"}
    path = f"/api/files/upload?filename={NAME}"
    return Side("POST", artstore.ingester_port, path, artstore.query_port, headers, paths)


def _their_side(seaweedfs: SeaweedFS, paths: Paths, collection: str) -> Side:
    """`fsync=true`: the answer comes after the content is on disk, as ours does."""
    path = f"/{collection}/{NAME}?collection={collection}&fsync=true"
    return Side("PUT", seaweedfs.filer_port, path, seaweedfs.filer_port, {}, paths)


def _measure_row(plan: Plan, row: Row, number: int, systems: Systems, report: Report, out: Output) -> None:
    """One side after the other; in every second round the other one is first."""
    for side in SIDES if number % 2 else reversed(SIDES):
        os.sync()
        time.sleep(SETTLE_S)
        before = Used.now(systems)
        outcome = run(row.ours if side == OURS else row.theirs, row.concurrency, plan.seconds)
        sample = before.sample(Used.now(systems), side, outcome)
        report.add(row.key, side, sample)
        out.progress(f"round {number + 1}: {row.title:<44} {side:<7} {sample}")


@dataclass(frozen=True, slots=True)
class Used:
    """CPU seconds used up to a moment, by side and by all programs."""

    at_s: float
    sides: dict[str, float]
    bench_s: float
    all_s: float

    @classmethod
    def now(cls, systems: Systems) -> Used:
        sides = {OURS: systems.artstore.cpu_s(), THEIRS: systems.seaweedfs.cpu_s()}
        return cls(time.monotonic(), sides, sum(os.times()[:4]), machine.busy_s())

    def sample(self, later: Used, side: str, outcome: Outcome) -> Sample:
        sides = {name: later.sides[name] - self.sides[name] for name in SIDES}
        known_s = sum(sides.values()) + later.bench_s - self.bench_s
        other_s = max(0.0, later.all_s - self.all_s - known_s)
        return Sample(outcome, sides[side], other_s / (later.at_s - self.at_s))

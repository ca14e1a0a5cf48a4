"""kill -9 at a failpoint, and at a failpoint of the recovery after it. Runs in worker processes that fork for each case: starting
Python for each would take a hundred times as long, and a fork dies of SIGKILL like any process.

The roots are in memory (/dev/shm) where that exists: a killed process loses nothing that it wrote, so no disk is needed.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from app.store.store import FileChange, Store
from app.store.unfinished import Uploads
from artstore import failpoints

from ..store.support import opened
from .invariants import check_invariants
from .journal import Journal, KeptCatalog, allowed_states, missing_records
from .work import (
    SCENARIOS,
    TTL_S,
    Work,
    append_to,
    catalog_of,
    confirmed_of,
    journal_of,
    offset_of,
    recorded_of,
    uploaded_of,
)

SEGMENT_BYTES = 128 << 10
KILLED = -signal.SIGKILL
CASE_TIMEOUT_S = 60
COMPENSATING = frozenset({"compensated", "settled_late"})
"""Scenarios in which files disappear also by compensations, which the audit log does not record."""

Moment = tuple[str, int]
"""The nth time that a point is reached."""


@dataclass(frozen=True, slots=True)
class Case:
    """`in_recovery` None: every moment of the recovery, one after the other, each on a copy of the same crashed root."""

    scenario: str
    moment: Moment
    in_recovery: tuple[Moment, ...] | None = ()


@dataclass(slots=True)
class Outcome:
    kills: int
    kills_in_recovery: int
    hits: set[str]


@contextmanager
def scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="artstore-kills-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        yield folder
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)  # many folders: ten times as fast as shutil


def moments_of(scenario: str) -> list[Moment]:
    """Every moment of an undisturbed run, its start and end included."""
    with scratch() as folder:
        log = folder / "hits"
        require(in_child(partial(_work, folder / "root", scenario), None, log), 0)
        return moments_in(log)


def run_case(case: Case) -> Outcome:
    with scratch() as folder:
        root, log = folder / "root", folder / "hits"
        kills = int(in_child(partial(_work, root, case.scenario), case.moment, log).status == KILLED)
        again: tuple[Moment, ...] = case.in_recovery or ()
        if case.in_recovery is None and kills:
            copy_root(root, folder / "probe")
            probe_log = folder / "probe-hits"
            require(in_child(partial(_recover, folder / "probe", case.scenario), None, probe_log), 0)
            again = tuple(moments_in(probe_log))
        in_recovery = 0
        for nth, moment in enumerate(again):
            copied = folder / f"copy-{nth}"
            copy_root(root, copied)
            in_recovery += int(in_child(partial(_recover, copied, case.scenario), moment, log).status == KILLED)
            require(in_child(partial(_recover, copied, case.scenario), None, log), 0, case, moment)
            shutil.rmtree(copied)
        require(in_child(partial(_recover, root, case.scenario), None, log), 0, case)
        return Outcome(kills, in_recovery, set(log.read_text().split()))


def _work(root: Path, scenario: str) -> None:
    async def run() -> None:
        catalog = KeptCatalog(catalog_of(root))
        record = partial(_record, recorded_of(root))
        async with opened(root, catalog, segment_bytes=SEGMENT_BYTES, record_change=record) as store:
            await SCENARIOS[scenario](Work(store, Journal(journal_of(root)), catalog))

    asyncio.run(run())


def _recover(root: Path, scenario: str) -> None:
    """Opens, settles and checks. Also what is killed in the middle of it: then the check is not reached."""

    async def run() -> None:
        catalog = KeptCatalog(catalog_of(root))
        record = partial(_record, recorded_of(root))
        async with opened(root, catalog, segment_bytes=SEGMENT_BYTES, record_change=record) as store:
            found = check_invariants(
                root,
                allowed=allowed_states(journal_of(root)),
                catalog=catalog.revisions(),
                open_intents=len(store.wal.open) + len(store.unsettled),
            )
            revisions = {file_id: state[1] for file_id, state in found.items() if state is not None}
            missing = missing_records(
                journal_of(root), recorded_of(root), revisions, deletes=scenario not in COMPENSATING
            )
            assert not missing, f"not in the audit log: {missing}"
            await continue_uploads(root, store, catalog)
            if confirmed_of(root).exists():
                assert not store.unconfirmed.keys() & set(confirmed_of(root).read_text().split())

    asyncio.run(run())


async def _record(path: Path, change: FileChange) -> None:
    with path.open("a") as file:
        file.write(f"{change.action} {change.file_id} {change.revision}\n")


async def continue_uploads(root: Path, store: Store, catalog: KeptCatalog) -> None:
    """Nothing acknowledged of an upload is lost, and it can be completed from where it is, under its own ids or new ones."""
    uploads = Uploads(store, TTL_S)
    uploads.load()
    assert not store.findings.damaged
    content = uploaded_of(root).read_bytes() if uploaded_of(root).exists() else b""
    acknowledged = int(offset_of(root).read_text() or 0) if offset_of(root).exists() else 0
    work = Work(store, Journal(journal_of(root)), catalog)
    records = [json.loads(path.read_bytes()) for path in (root / "uploads").glob("*.json")]
    assert not acknowledged or any(record["offset"] >= acknowledged for record in records), "the upload is gone"
    for record in records if content else ():
        upload = uploads.find(record["upload_id"], "account")
        if not record["committed"]:
            kept = (root / "uploads" / upload.id).read_bytes()[: record["offset"]]
            assert kept == content[: record["offset"]]
            await append_to(uploads, upload, content[record["offset"] :])
            assert await work.complete(uploads, upload, content)
    data = {path.name for path in (root / "uploads").iterdir() if path.suffix != ".json"}
    assert data == (set() if content else {record["upload_id"] for record in records})


def copy_root(root: Path, target: Path) -> None:
    """Only files; the store creates empty folders again."""
    for folder, _, names in os.walk(root):
        if names:
            there = target / Path(folder).relative_to(root)
            there.mkdir(parents=True)
            for name in names:
                shutil.copyfile(f"{folder}/{name}", there / name)
    for of in (journal_of, catalog_of, confirmed_of, recorded_of, uploaded_of, offset_of):
        if of(root).exists():
            shutil.copyfile(of(root), of(target))


def moments_in(log: Path) -> list[Moment]:
    counted: Counter[str] = Counter()
    moments = []
    for name in log.read_text().split():
        counted[name] += 1
        moments.append((name, counted[name]))
    return moments


@dataclass(frozen=True, slots=True)
class Ended:
    status: int
    errors: str


def in_child(function: Callable[[], None], moment: Moment | None, log: Path) -> Ended:
    log.touch()
    errors = log.with_suffix(".errors")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(CASE_TIMEOUT_S)
            armed = {} if moment is None else {"ARTSTORE_POINT": f"{moment[0]}:kill:{moment[1]}"}
            failpoints.arm({**armed, "ARTSTORE_POINTS_LOG": str(log)})
            function()
            status = 0
        except BaseException:
            errors.write_text(traceback.format_exc())
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, errors.read_text() if code == 1 else "")


def require(ended: Ended, status: int, *what: object) -> None:
    assert ended.status == status, f"{what} ended with {ended.status}:\n{ended.errors}"

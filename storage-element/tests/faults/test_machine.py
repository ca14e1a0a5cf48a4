"""Puts, updates, deletes, checkpoints, restarts and power cuts in any order, on a disk that keeps only what it must."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from random import Random
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from app.store import durable
from app.store.paths import Paths
from app.store.store import Store
from app.store.wal import segment as segments
from artstore.contracts.files import Attributes

from ..store.support import RememberingCatalog, opened
from .invariants import check_invariants
from .journal import ABSENT, State
from .lengths import LONG
from .simulated_disk import Image, SimulatedDisk
from .work import LARGE_BYTES, SMALL_BYTES, Work, attempt_checkpoint

SEGMENT_BYTES = 64 << 10
RECENT_CALLS = 30
TIMEOUT_S = 120
T = TypeVar("T")
SIZES = st.sampled_from([0, 1, SMALL_BYTES, 5000, LARGE_BYTES])
PICK = st.integers(0, 1 << 16)


class DatedJournal:
    """`Journal` in memory, dated by how many calls the disk had seen."""

    def __init__(self, disk: SimulatedDisk, before: dict[str, list[State]]) -> None:
        self._disk, self._before = disk, before
        self._entries: list[tuple[int, str, str, State]] = []

    def begun(self, file_id: str, state: State) -> None:
        self._entries.append((len(self._disk.calls), "begun", file_id, state))

    def done(self, file_id: str, state: State) -> None:
        self._entries.append((len(self._disk.calls), "done", file_id, state))

    def refused(self, file_id: str, state: State) -> None:
        """Undone because the catalog did not take its row: nothing of it may come back."""
        self._entries.append((len(self._disk.calls), "refused", file_id, state))

    def allowed(self, until: int) -> dict[str, list[State]]:
        allowed = {file_id: list(states) for file_id, states in self._before.items()}
        for at, what, file_id, state in self._entries:
            if at > until:
                break
            if what == "begun":
                allowed.setdefault(file_id, [ABSENT]).append(state)
            elif what == "refused":
                allowed[file_id].remove(state)
            else:
                allowed[file_id] = [state]
        return allowed


class DatedCatalog(RememberingCatalog):
    def __init__(self, disk: SimulatedDisk, rows: dict[str, tuple[Attributes, str | None]]) -> None:
        super().__init__()
        self.rows = dict(rows)
        self._disk, self._before = disk, dict(rows)
        self._changes: list[tuple[int, str]] = []
        self._after: list[dict[str, tuple[Attributes, str | None]]] = []

    async def note(self, attributes: Attributes, *, saga_id: str | None, change: str) -> None:
        await super().note(attributes, saga_id=saga_id, change=change)
        self._remember(attributes.file_id)

    async def forget(self, file_id: str, *, revision: int) -> None:
        await super().forget(file_id, revision=revision)
        self._remember(file_id)

    def _remember(self, file_id: str) -> None:
        self._changes.append((len(self._disk.calls), file_id))
        self._after.append(dict(self.rows))

    def rows_at(self, until: int) -> dict[str, tuple[Attributes, str | None]]:
        known = [rows for (at, _), rows in zip(self._changes, self._after, strict=True) if at <= until]
        return known[-1] if known else self._before


class PowerCuts(RuleBasedStateMachine):
    """The model is the journal: what was answered must be there, whatever the disk made of the rest."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp(prefix="artstore-machine-", dir=_in_memory()))
        self._runner = asyncio.Runner()
        self._sessions = 0
        self._real = {module: module.__dict__.copy() for module in (durable, segments)}

    @initialize(seed=PICK)
    def start(self, seed: int) -> None:
        self._random = Random(seed)
        self._open_on(Image(), {}, {})

    @rule(size=SIZES)
    def put(self, size: int) -> None:
        self._run(self.work.put(size))

    @rule(pick=PICK)
    def patch(self, pick: int) -> None:
        if self.work.file_ids:
            self._run(self.work.patch(self._one(pick)))

    @rule(pick=PICK, size=SIZES)
    def rewrite(self, pick: int, size: int) -> None:
        if self.work.file_ids:
            self._run(self.work.rewrite(self._one(pick), size))

    @rule(pick=PICK)
    def delete(self, pick: int) -> None:
        if self.work.file_ids:
            self._run(self.work.delete(self._one(pick)))

    @rule(sizes=st.lists(SIZES, min_size=2, max_size=6), pick=PICK)
    def several_at_once(self, sizes: list[int], pick: int) -> None:
        others = [self.work.patch(self._one(pick))] if self.work.file_ids else []

        async def together() -> None:
            await asyncio.gather(*[self.work.put(size) for size in sizes], *others)

        self._run(together())

    @rule(sizes=st.lists(SIZES, min_size=1, max_size=3), beside=st.booleans())
    def put_what_the_catalog_refuses(self, sizes: list[int], beside: bool) -> None:
        """Undone, perhaps while a checkpoint is made."""

        async def together() -> None:
            await asyncio.gather(
                *[self.work.put_refused(size) for size in sizes],
                *[attempt_checkpoint(self.store) for _ in range(beside)],
            )

        self._run(together())

    @rule()
    def checkpoint(self) -> None:
        self._run(attempt_checkpoint(self.store))

    @rule(back=st.one_of(st.just(0), st.integers(0, RECENT_CALLS)), share=st.sampled_from([0.0, 0.5, 0.9]), seed=PICK)
    def power_cut_lately(self, back: int, share: float, seed: int) -> None:
        self._cut(max(0, len(self.disk.calls) - back), share, seed)

    @rule(part=st.floats(0, 1), share=st.sampled_from([0.0, 0.5, 0.9]), seed=PICK)
    def power_cut_at_any_time_since_the_start(self, part: float, share: float, seed: int) -> None:
        """Also inside the recovery that this session began with."""
        self._cut(int(part * len(self.disk.calls)), share, seed)

    @rule()
    def restart(self) -> None:
        self._run(self._session.__aexit__(None, None, None))
        count = len(self.disk.calls)
        self._open_on(
            self.disk.image_after(count, self._random, 0.0), self.journal.allowed(count), self.catalog.rows_at(count)
        )

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self._abandon()
        for module, names in self._real.items():
            vars(module).update(names)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _cut(self, count: int, share: float, seed: int) -> None:
        self._abandon()
        image = self.disk.image_after(count, Random(seed), share)
        self._open_on(image, self.journal.allowed(count), self.catalog.rows_at(count))

    def _abandon(self) -> None:
        """The process is gone; here its threads have to be ended, and what they still do is not looked at."""
        self._run(self._session.__aexit__(None, None, None))

    def _open_on(
        self, image: Image, allowed: dict[str, list[State]], rows: dict[str, tuple[Attributes, str | None]]
    ) -> None:
        self._sessions += 1
        live = self._folder / str(self._sessions)
        live.mkdir()
        image.write_to(live)
        self.disk = SimulatedDisk(live, image)
        vars(durable).update(os=self.disk, _libc=self.disk)
        vars(segments).update(os=self.disk)
        self.catalog = DatedCatalog(self.disk, rows)
        self._session: AbstractAsyncContextManager[Store] = opened(
            live / "root", self.catalog, segment_bytes=SEGMENT_BYTES
        )
        self.store = self._run(self._session.__aenter__())
        found = check_invariants(
            live / "root",
            allowed=allowed,
            catalog={file_id: attributes.revision for file_id, (attributes, _) in self.catalog.rows.items()},
            open_intents=len(self.store.wal.open) + len(self.store.unsettled),
        )
        self.journal = DatedJournal(self.disk, allowed)
        for file_id in allowed:
            self.journal.done(file_id, found.get(file_id))
        self.work = Work(self.store, self.journal, self.catalog, self._random)
        paths = Paths(str(live / "root"))
        for file_id, state in found.items():
            assert state is not None
            self.work.know(file_id, Path(paths.data(file_id)).read_bytes(), state[1])

    def _one(self, pick: int) -> str:
        return sorted(self.work.file_ids)[pick % len(self.work.file_ids)]

    def _run(self, step: Awaitable[T]) -> T:
        async def limited() -> T:
            async with asyncio.timeout(TIMEOUT_S):
                return await step

        return self._runner.run(limited())


def _in_memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


PowerCuts.TestCase.settings = settings(
    max_examples=400 if LONG else 12,
    stateful_step_count=50 if LONG else 25,
    deadline=None,
    derandomize=not LONG,
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestPowerCuts = PowerCuts.TestCase

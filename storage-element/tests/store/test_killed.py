"""kill -9 at every named point, and again at every point of the recovery after it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from .killed import allowed_states
from .support import RememberingCatalog, opened, states_on_disk

MODULE = Path(__file__).parents[2]
SOURCES = MODULE / "app" / "store"
POINTS = sorted(
    {name for path in SOURCES.rglob("*.py") for name in re.findall(r'\bhit\("([^"]+)"\)', path.read_text())}
)
SMALL_BYTES, LARGE_BYTES = 1000, 100_000
AT_ONCE = 4
ON_FAILURE = {"put.undone", "put.aborted", "update.aborted"}
"""Reached only when something fails; test_failing.py goes there."""
WORTH_RECOVERING = [
    "wal.synced",
    "put.small.data_renamed",
    "put.renamed",
    "put.data_renamed",
    "put.noted",
    "update.data_renamed",
    "update.decided",
    "delete.attributes_removed",
    "checkpoint.synced",
]
"""Crashes that leave recovery something to do."""


async def run(root: Path, size: int, point: str, log: Path) -> bool:
    """Whether it was killed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.store.killed", str(root), str(root.with_suffix(".journal")), str(size)),
        cwd=MODULE,
        env={**os.environ, "ARTSTORE_POINT": point, "ARTSTORE_POINTS_LOG": str(log)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode in (0, -9), errors.decode()
    return process.returncode == -9


async def check_recovered(root: Path) -> None:
    """Acknowledged means readable as acknowledged; what was under way is whole or absent; nothing lies about."""
    catalog = RememberingCatalog()
    async with opened(root, catalog) as store:
        found = states_on_disk(root)
        assert os.listdir(root / "tmp") == []
        assert store.wal.open == {}
        assert store.unsettled == {}
    data = {path.name for path in (root / "files").rglob("*") if path.is_file() and path.suffix != ".json"}
    assert data == set(found)
    journal = root.with_suffix(".journal")
    allowed = allowed_states(journal) if journal.exists() else {}
    for file_id, states in allowed.items():
        assert found.get(file_id) in states, f"{file_id}: {found.get(file_id)} is none of {states}"
    assert set(found) <= set(allowed)


@pytest.mark.parametrize("size", [SMALL_BYTES, LARGE_BYTES])
async def test_a_kill_at_any_point_leaves_all_or_nothing(tmp_path: Path, size: int) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(point: str, nth: int) -> None:
        async with gate:
            root = tmp_path / f"{point}-{nth}".replace(".", "-")
            await run(root, size, f"{point}:kill:{nth}", tmp_path / "hits")
            await check_recovered(root)

    async with asyncio.TaskGroup() as runs:
        for point in POINTS:
            for nth in (1, 3):
                runs.create_task(one(point, nth))


async def test_a_kill_inside_recovery_is_a_crash_like_any_other(tmp_path: Path) -> None:
    gate = asyncio.Semaphore(AT_ONCE)
    in_recovery = [point for point in POINTS if point.startswith(("recover.", "checkpoint.", "settle.", "wal."))]

    async def one(crash: str, size: int) -> None:
        async with gate:
            base = tmp_path / f"{crash}-{size}".replace(".", "-")
            if not await run(base, size, f"{crash}:kill:2", tmp_path / "hits"):
                return
            for point in in_recovery:
                root = tmp_path / f"{crash}-{size}-{point}".replace(".", "-")
                shutil.copytree(base, root)
                shutil.copy(base.with_suffix(".journal"), root.with_suffix(".journal"))
                await run(root, size, f"{point}:kill", tmp_path / "hits")
                await check_recovered(root)
                shutil.rmtree(root)

    async with asyncio.TaskGroup() as runs:
        for crash in WORTH_RECOVERING:
            for size in (SMALL_BYTES, LARGE_BYTES):
                runs.create_task(one(crash, size))

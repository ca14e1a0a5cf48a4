"""kill -9 at every point of rebuild, verify and sweep: the next start goes on with them, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

from artstore.clock import uuid7

from ..running import EndedAtStart, Neighbours, RunningElement, eventually, running_element
from ..upkeep.catalog import all_confirmed, catalog_of, data_path, rebuilt, verified
from .journal import ABSENT, State
from .outside import check_element, stored
from .test_kills import points_below

UPKEEP = Path(__file__).parents[2] / "app" / "upkeep"
GRACE_S = 1


async def ask_for_rebuild(element: RunningElement) -> None:
    await element.ask("POST", "/api/element/rebuild", json={})


async def ask_for_verify(element: RunningElement) -> None:
    await element.ask("POST", "/api/element/verify", json={})


async def wait_for_sweep(element: RunningElement) -> None:
    """It begins by itself once the grace period is over."""


PROVOKED: dict[str, Callable[[RunningElement], Awaitable[None]]] = {
    "rebuild.folder_done": ask_for_rebuild,
    "rebuild.rows_done": ask_for_rebuild,
    "verify.mismatch_sure": ask_for_verify,
    "sweep.orphan_removed": wait_for_sweep,
}


async def test_upkeep_killed_at_any_failpoint_resumes(own_neighbours: Neighbours, tmp_path: Path) -> None:
    assert set(PROVOKED) == points_below(UPKEEP)
    root, settings = tmp_path / "se", {"STORAGE_SWEEP_GRACE_S": str(GRACE_S)}
    allowed: dict[str, list[State]] = {}
    async with catalog_of(own_neighbours) as catalog:
        async with running_element(own_neighbours, root) as element:
            for size in (10, 1000, 100_000, 200_000):
                content = os.urandom(size)
                file_id, state = stored(await element.put(content), content)
                allowed[file_id] = [state]
            await catalog.commit(*allowed)
            await eventually(lambda: all_confirmed(element))
        damaged = next(iter(allowed))
        data_path(root, damaged).write_bytes(bytes(10))
        allowed[damaged] = [ABSENT]
        orphan = data_path(root, str(uuid7()))
        orphan.parent.mkdir(exist_ok=True)
        orphan.write_bytes(b"a put that a crash left")
        os.utime(orphan, (0, 0))
        await catalog.run("TRUNCATE files")
        for point, provoke in PROVOKED.items():
            try:
                async with running_element(own_neighbours, root, ARTSTORE_POINT=f"{point}:kill", **settings) as element:
                    await provoke(element)
                    status = await asyncio.to_thread(element.process.wait, 120)
            except (EndedAtStart, aiohttp.ClientError) as ended:
                # The empty catalog is noticed, and rebuilt, without a request: the point may be reached first.
                status = ended.args[0] if isinstance(ended, EndedAtStart) else element.process.wait(120)
            assert status == -signal.SIGKILL, point
        async with running_element(own_neighbours, root, **settings) as element:
            await verified(element)
            await rebuilt(element)
            await check_element(element, own_neighbours, allowed)
            assert (root / "quarantine" / damaged).exists()

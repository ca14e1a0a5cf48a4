"""A disk that fills up: puts are refused in time, leave nothing behind, and deletes always succeed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from artstore.clock import uuid7

from ..running import Neighbours, RunningElement, running_element
from .disks import small_disk, why_not
from .journal import ABSENT, State
from .outside import begin_put, check_element, stored

DISK_BYTES = 40 << 20
FILE_BYTES = 2_000_000


@pytest.fixture
def small_root(tmp_path: Path) -> Iterator[Path]:
    """A link, so that the element's log file is not on the disk that it fills."""
    reason = why_not("ext4")
    if reason is not None:
        pytest.skip(f"NOT PROVEN here: no small disk, because {reason}")
    with small_disk(tmp_path, DISK_BYTES) as mountpoint:
        (mountpoint / "root").mkdir()
        (tmp_path / "se").symlink_to(mountpoint / "root")
        yield tmp_path / "se"


async def test_a_full_disk_refuses_in_time_and_still_deletes(own_neighbours: Neighbours, small_root: Path) -> None:
    allowed: dict[str, list[State]] = {}
    async with running_element(own_neighbours, small_root) as element:
        kept = await fill(element, allowed)
        # Known length: refused before any of the body was read. Unknown: in the middle, and nothing is left of it.
        sender = await begin_put(element, str(uuid7()), str(uuid7()), 4 * FILE_BYTES)
        assert await sender.status() == 507
        sender.close()
        assert (await element.put(endless(8 * FILE_BYTES))).status == 507
        await check_element(element, own_neighbours, allowed)
        # Another program uses up the reserve too: the log has its space already, and a delete needs none.
        hog(small_root.resolve().parent / "hog")
        path = f"/api/files/{kept[0]}"
        assert (await element.put(b"x" * 10_000)).status == 507
        assert (await element.ask("PATCH", path, json={"tags": ["x"]})).status == 507
        assert (await element.ask("PUT", f"{path}/content", data=os.urandom(FILE_BYTES))).status == 507
        await check_element(element, own_neighbours, allowed)
        for file_id in kept[:4]:
            assert (await element.ask("DELETE", f"/api/files/{file_id}")).status == 204
            allowed[file_id] = [ABSENT]
        (small_root.resolve().parent / "hog").unlink()
        content = os.urandom(FILE_BYTES)
        file_id, state = stored(await element.put(content), content)
        allowed[file_id] = [state]
        assert (await element.ask("GET", "/api/element")).json["read_only_reason"] is None
    async with running_element(own_neighbours, small_root) as element:
        await check_element(element, own_neighbours, allowed)


async def fill(element: RunningElement, allowed: dict[str, list[State]]) -> list[str]:
    kept: list[str] = []
    while True:
        content = os.urandom(FILE_BYTES)
        answer = await element.put(content)
        if answer.status == 507:
            assert answer.json["code"] == "storage_full"
            return kept
        file_id, state = stored(answer, content)
        allowed[file_id] = [state]
        kept.append(file_id)


async def endless(size_bytes: int) -> AsyncIterator[bytes]:
    for _ in range(0, size_bytes, 100_000):
        yield os.urandom(100_000)


def hog(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for piece_bytes in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(piece_bytes))
            except OSError:
                pass

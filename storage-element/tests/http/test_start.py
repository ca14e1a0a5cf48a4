"""Errors that an operator sees when an element starts on the wrong root."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from artstore.testing.services import free_port

from ..running import Neighbours, environment, eventually, running_element, start_process
from ..upkeep.catalog import all_confirmed, catalog_of


def refusal_of(neighbours: Neighbours, root: Path, log: Path, **settings: str) -> list[str]:
    process = start_process(environment(neighbours, root, free_port(), **settings), log)
    assert process.wait(120) == 3
    said = log.read_text()
    assert "Traceback" not in said
    return [line for line in said.splitlines() if "start refused" in line]


async def test_a_second_process_on_a_root_ends_with_one_line(neighbours: Neighbours, tmp_path: Path) -> None:
    async with running_element(neighbours, tmp_path / "root") as element:
        lines = refusal_of(neighbours, tmp_path / "root", tmp_path / "second.log")
        assert len(lines) == 1
        assert f"another process uses {tmp_path / 'root'}" in lines[0]
        assert (await element.put(b"the first goes on")).status == 201


async def test_an_undelivered_report_is_repeated_soon(neighbours: Neighbours, tmp_path: Path) -> None:
    """After three missed reports it would count as away although it runs."""
    neighbours.admin.unavailable_reports = 3
    heard = len(neighbours.admin.reports)

    async def is_heard() -> bool:
        return len(neighbours.admin.reports) > heard

    async with running_element(neighbours, tmp_path / "root"):
        await eventually(is_heard, timeout_s=60)
    assert neighbours.admin.unavailable_reports == 0


async def test_a_root_of_another_element_is_refused_with_one_line(neighbours: Neighbours, tmp_path: Path) -> None:
    async with running_element(neighbours, tmp_path / "root"):
        pass
    lines = refusal_of(neighbours, tmp_path / "root", tmp_path / "other.log", STORAGE_ELEMENT_ID="se-02")
    assert len(lines) == 1
    assert "belongs to the element se-01, not to se-02" in lines[0]


async def test_an_element_accepted_during_recovery_confirms_uploads(neighbours: Neighbours, tmp_path: Path) -> None:
    """A slow start reports before the store is open; all that works in the background begins nevertheless."""
    async with running_element(neighbours, tmp_path / "root"):
        pass
    segment = tmp_path / "root/wal/00000099.wal"
    os.mkfifo(segment)  # its `open` waits until the pipe is opened for writing
    reports = neighbours.admin.reports
    reports.clear()

    async def were_answered() -> bool:
        """The second report follows the answer to the first."""
        return len(reports) >= 2

    async def go_on() -> None:
        try:
            await eventually(were_answered, timeout_s=100)
        finally:
            pipe = segment.rename(tmp_path / "pipe")
            segment.write_bytes(bytes(1 << 20))
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))

    going = asyncio.create_task(go_on())
    async with running_element(neighbours, tmp_path / "root") as element, catalog_of(neighbours) as catalog:
        await going
        assert reports[1].away_reason == "starting: reading the log"
        await catalog.commit((await element.put(b"bytes")).json["file_id"])
        await eventually(lambda: all_confirmed(element))

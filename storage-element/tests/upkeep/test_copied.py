"""A backup is a copy of the folder: started elsewhere, it serves everything."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ..running import Neighbours, RunningElement, eventually, running_element
from .catalog import attributes_path, catalog_of, on_disk, rebuilt, upkeep_of


async def filled(element: RunningElement) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    for size in (0, 10, 5000, 65_537, 2_000_000):
        content = os.urandom(size)
        put = await element.put(content)
        assert put.status == 201, put.body
        contents[put.json["file_id"]] = content
    changed = next(iter(contents))
    assert (await element.ask("PATCH", f"/api/files/{changed}", json={"tags": ["changed"]})).status == 200
    return contents


async def check_serves(element: RunningElement, contents: dict[str, bytes], records: dict[str, bytes]) -> None:
    for file_id, content in contents.items():
        assert (await element.ask("GET", f"/api/files/{file_id}")).body == records[file_id]
        assert (await element.ask("GET", f"/api/files/{file_id}/content")).body == content
    listed = (await element.ask("GET", "/api/files", params={"limit": "1000"})).json["items"]
    assert {item["file_id"] for item in listed} == set(contents)


@pytest.mark.parametrize("stopped", [True, False])
async def test_a_copied_folder_serves_everything(own_neighbours: Neighbours, tmp_path: Path, stopped: bool) -> None:
    root, copy = tmp_path / "first" / "se", tmp_path / "second" / "se"
    copy.parent.mkdir()
    root.parent.mkdir()
    async with running_element(own_neighbours, root) as element:
        contents = await filled(element)
        records = on_disk(root)
        if stopped:
            element.stop()
        await asyncio.to_thread(subprocess.run, ["cp", "-a", str(root), str(copy)], check=True)
    async with (
        running_element(own_neighbours, copy, SAGA_LEASE_S="1") as element,
        catalog_of(own_neighbours) as catalog,
    ):
        await check_serves(element, contents, records)
        await catalog.run("TRUNCATE files")
        assert (await rebuilt(element))["phase"] == "done"
        assert await catalog.attributes() == records
        assert (await element.put(b"and takes new ones")).status == 201


async def test_the_files_alone_are_enough(own_neighbours: Neighbours, tmp_path: Path) -> None:
    """As rsync of files/ alone leaves it: no log, no element.json."""
    root, copy = tmp_path / "se", tmp_path / "copy"
    async with running_element(own_neighbours, root) as element:
        contents = await filled(element)
        records = on_disk(root)
        element.stop()
    copy.mkdir()
    shutil.copytree(root / "files", copy / "files")
    async with running_element(own_neighbours, copy) as element:
        await check_serves(element, contents, records)

        async def counted() -> bool:
            return bool((await upkeep_of(element))["usage_exact"])

        await eventually(counted)
        capacity = (await element.ask("GET", "/api/element")).json["capacity"]
        assert (capacity["files"], capacity["used_bytes"]) == (5, sum(map(len, contents.values())))
        assert attributes_path(copy, next(iter(contents))).exists()

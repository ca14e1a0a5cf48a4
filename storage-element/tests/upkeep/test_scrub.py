"""Bytes that changed under their checksum are found, quarantined and reported; sound files are left alone."""

from __future__ import annotations

import os
from pathlib import Path

import aiohttp
import msgspec
import pytest

from artstore.clock import uuid7

from ..running import Neighbours, RunningElement, eventually, running_element
from .catalog import all_confirmed, attributes_path, catalog_of, data_path, upkeep_of, verified


def flip_a_bit(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 4]))


async def test_a_flipped_bit_is_found(own_neighbours: Neighbours, tmp_path: Path) -> None:
    root = tmp_path / "se"
    async with (
        running_element(own_neighbours, root, STORAGE_VERIFY_BYTES_PER_S="0") as element,
        catalog_of(own_neighbours) as catalog,
    ):
        contents = [os.urandom(size) for size in (1000, 3_000_000, 0, 5000, 70_000)]
        file_ids = [(await element.put(content)).json["file_id"] for content in contents]
        await catalog.commit(*file_ids)
        await eventually(lambda: all_confirmed(element))
        small, large, *sound = file_ids
        flip_a_bit(data_path(root, small), 500)
        flip_a_bit(data_path(root, large), 2_999_999)
        attributes_before = {file_id: attributes_path(root, file_id).read_bytes() for file_id in sound}
        state = await verified(element)
        assert (state["damaged"], state["files"]) == (2, 5)
        assert set(await catalog.states()) == set(sound)
        for file_id in (small, large):
            answer = await element.ask("GET", f"/api/files/{file_id}/content")
            assert (answer.status, answer.json["code"]) == (410, "quarantined")
            assert (root / "quarantine" / file_id).exists()
            assert (root / "quarantine" / f"{file_id}.attr.json").exists()
        for file_id, content in list(zip(file_ids, contents, strict=True))[2:]:
            assert (await element.ask("GET", f"/api/files/{file_id}/content")).body == content
        assert {file_id: attributes_path(root, file_id).read_bytes() for file_id in sound} == attributes_before
        metrics = (await element.ask("GET", "/metrics")).body.decode()
        assert 'upkeep_findings_total{problem="hash_differs"} 2.0' in metrics
        assert "element_quarantined_files 2.0" in metrics
        used = sum(len(content) for content in contents[2:])
        assert f'storage_space_used_bytes{{storage_element_id="se-01"}} {float(used)}' in metrics
        found = [msgspec.json.decode(line) for line in (root / "upkeep" / "findings.jsonl").read_bytes().splitlines()]
        assert {(one["file_id"], one["problem"], one["action"]) for one in found} == {
            (small, "hash_differs", "quarantined"),
            (large, "hash_differs", "quarantined"),
        }
        assert (await verified(element))["damaged"] == 0
        assert await quarantined_files(element) == 2
        element.stop()
    async with running_element(own_neighbours, root) as element:

        async def both_are_counted() -> bool:
            return await quarantined_files(element) == 2

        await eventually(both_are_counted)
        for file_id in (small, large):
            (root / "quarantine" / file_id).unlink()
            (root / "quarantine" / f"{file_id}.attr.json").unlink()
        assert (await verified(element))["damaged"] == 0
        assert await quarantined_files(element) == 0


async def quarantined_files(element: RunningElement) -> float:
    page = (await element.ask("GET", "/metrics")).body.decode()
    [value] = [line.split()[1] for line in page.splitlines() if line.startswith("element_quarantined_files ")]
    return float(value)


async def test_a_file_that_cannot_be_opened_is_quarantined_too(own_neighbours: Neighbours, tmp_path: Path) -> None:
    root = tmp_path / "se"
    async with running_element(own_neighbours, root) as element, catalog_of(own_neighbours) as catalog:
        file_ids = [(await element.put(os.urandom(900))).json["file_id"] for _ in range(3)]
        await catalog.commit(*file_ids)
        attributes_path(root, file_ids[0]).write_bytes(b"\x00" * 300)
        os.truncate(data_path(root, file_ids[1]), 10)
        assert (await verified(element))["damaged"] == 2
        assert (await upkeep_of(element))["findings"] == {"attributes_damaged": 1, "size_differs": 1}
        assert set(await catalog.states()) == {file_ids[2]}


async def test_a_scrub_resumes_after_a_restart(own_neighbours: Neighbours, tmp_path: Path) -> None:
    root = tmp_path / "se"
    async with running_element(own_neighbours, root) as element:
        file_ids = sorted(
            [(await element.put(os.urandom(10))).json["file_id"] for _ in range(20)],
            key=lambda file_id: (file_id[-4:-2], file_id[-2:], file_id),
        )
        element.stop()
    state = {"started_at": "2026-01-01T00:00:00.000000Z", "after": file_ids[14], "files": 15}
    (root / "upkeep" / "verify.json").write_bytes(msgspec.json.encode(state))
    async with running_element(own_neighbours, root) as element:

        async def done() -> bool:
            return bool((await upkeep_of(element))["verify"]["finished_at"])

        await eventually(done)
        assert (await upkeep_of(element))["verify"]["files"] == 20


async def test_a_file_unknown_to_the_catalog_is_not_damaged(own_neighbours: Neighbours, tmp_path: Path) -> None:
    async with running_element(own_neighbours, tmp_path / "se") as element:
        assert (await element.ask("GET", f"/api/files/{uuid7()}")).status == 404
        assert (await verified(element))["files"] == 0


async def test_a_download_that_meets_a_flipped_bit_breaks_off_and_quarantines(
    own_neighbours: Neighbours, tmp_path: Path
) -> None:
    root = tmp_path / "se"
    async with running_element(own_neighbours, root) as element, catalog_of(own_neighbours) as catalog:
        for size in (1000, 3_000_000):
            file_id = (await element.put(os.urandom(size))).json["file_id"]
            await catalog.commit(file_id)
            await eventually(lambda: all_confirmed(element))
            flip_a_bit(data_path(root, file_id), size // 2)
            path = f"/api/files/{file_id}/content"
            if size > 1 << 20:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await element.ask("GET", path)
            else:
                answer = await element.ask("GET", path)
                assert (answer.status, answer.json["code"]) == (500, "file_damaged")

            async def quarantined(path: str = path) -> bool:
                return (await element.ask("GET", path, headers={"range": "bytes=0-1"})).status == 410

            await eventually(quarantined)
            assert (root / "quarantine" / file_id).exists()

        async def forgotten() -> bool:
            return not await catalog.states()

        await eventually(forgotten)

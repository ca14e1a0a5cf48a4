"""After a rebuild the catalog says what the disk says, whatever was wrong with either."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

from app.upkeep import rows
from artstore.clock import uuid7

from ..running import Neighbours, RunningElement, eventually, running_element
from .catalog import (
    Catalog,
    all_confirmed,
    attributes_path,
    catalog_of,
    data_path,
    on_disk,
    rebuilt,
    upkeep_of,
)


async def put_files(element: RunningElement, catalog: Catalog, number: int) -> list[str]:
    """Stored, committed, and known as such to the element."""
    puts = await asyncio.gather(*(element.put(os.urandom(100 + n)) for n in range(number)))
    assert {put.status for put in puts} == {201}
    file_ids = [put.json["file_id"] for put in puts]
    await catalog.commit(*file_ids)
    await eventually(lambda: all_confirmed(element))
    return file_ids


async def test_a_dropped_catalog_is_restored(own_neighbours: Neighbours, tmp_path: Path) -> None:
    async with running_element(own_neighbours, tmp_path / "se") as element, catalog_of(own_neighbours) as catalog:
        file_ids = await put_files(element, catalog, 40)
        await element.ask("PATCH", f"/api/files/{file_ids[0]}", json={"tags": ["patched"]})
        before = await catalog.attributes(), await catalog.states()
        await catalog.run("TRUNCATE files")
        state = await rebuilt(element)
        assert (state["phase"], state["files"], state["corrected"]) == ("done", 40, 40)
        assert (await catalog.attributes(), await catalog.states()) == before
        assert (await rebuilt(element))["corrected"] == 0


async def test_a_page_of_rows_is_read_in_the_order_of_an_index(own_neighbours: Neighbours) -> None:
    """Sorting would read all later rows for each page. A plan may sort only where no index has the order."""
    statement = str(rows._PAGE).replace(":element_id", "'se-01'").replace(":page", "10")
    async with catalog_of(own_neighbours) as catalog:
        await catalog.run("SET enable_sort = off")
        explained = await catalog.connection.fetch("EXPLAIN " + statement.replace(":after", f"'{rows.FIRST_ID}'"))
    plan = "\n".join(row[0] for row in explained)
    assert "Sort" not in plan, plan


async def test_every_kind_of_difference_is_corrected(own_neighbours: Neighbours, tmp_path: Path) -> None:
    root = tmp_path / "se"
    async with running_element(own_neighbours, root) as element, catalog_of(own_neighbours) as catalog:
        lost, behind, ahead, other, gone, half, kept = await put_files(element, catalog, 7)
        await element.ask("PATCH", f"/api/files/{behind}", json={"tags": ["new"]})
        await catalog.run("DELETE FROM files WHERE file_id = $1", lost)
        await catalog.run("UPDATE files SET revision = 1, attributes = '{}' WHERE file_id = $1", behind)
        await catalog.run("UPDATE files SET revision = 9 WHERE file_id = $1", ahead)
        await catalog.run("UPDATE files SET revision = 9, attributes = '{}' WHERE file_id = $1", other)
        attributes_path(root, gone).unlink()
        data_path(root, gone).unlink()
        attributes_path(root, half).unlink()
        state = await rebuilt(element)
        assert (state["phase"], state["forgotten"]) == ("done", 2)
        assert await catalog.attributes() == on_disk(root)
        assert set(on_disk(root)) == {lost, behind, ahead, other, kept}
        assert (root / "quarantine" / half).exists()
        assert (await element.ask("GET", f"/api/files/{half}")).json["code"] == "quarantined"
        assert (await element.ask("GET", f"/api/files/{gone}")).status == 404


async def test_damaged_files_are_one_finding_each_and_stop_nothing(own_neighbours: Neighbours, tmp_path: Path) -> None:
    root = tmp_path / "se"
    async with running_element(own_neighbours, root) as element, catalog_of(own_neighbours) as catalog:
        broken, short, bare, sound = await put_files(element, catalog, 4)
        attributes_path(root, broken).write_bytes(b'{"schema_version": 1, "file_id"')
        os.truncate(data_path(root, short), 3)
        data_path(root, bare).unlink()
        await catalog.run("TRUNCATE files")
        state = await rebuilt(element)
        assert (state["phase"], state["put_aside"]) == ("done", 3)
        assert await catalog.states() == {sound: "available"}
        upkeep = await upkeep_of(element)
        assert upkeep["findings"] == {"attributes_damaged": 1, "size_differs": 1, "data_missing": 1}
        for file_id in (broken, short, bare):
            answer = await element.ask("GET", f"/api/files/{file_id}/content")
            assert (answer.status, answer.json["code"]) == (410, "quarantined")
        metrics = (await element.ask("GET", "/metrics")).body.decode()
        assert 'upkeep_findings_total{problem="size_differs"} 1.0' in metrics
        findings = (root / "upkeep" / "findings.jsonl").read_text().splitlines()
        assert len(findings) == 3


async def test_a_disk_that_looks_empty_removes_no_rows_unless_forced(
    own_neighbours: Neighbours, tmp_path: Path
) -> None:
    root = tmp_path / "se"
    async with running_element(own_neighbours, root) as element, catalog_of(own_neighbours) as catalog:
        file_ids = await put_files(element, catalog, 5)
        for folder in (root / "files").iterdir():
            for below in folder.iterdir():
                shutil.rmtree(below)
        state = await rebuilt(element)
        assert state["phase"] == "refused"
        assert "mounted" in state["reason"]
        assert set(await catalog.states()) == set(file_ids)
        assert (await rebuilt(element, force=True))["phase"] == "done"
        assert await catalog.states() == {}


async def test_an_upload_whose_saga_is_open_stays_pending(own_neighbours: Neighbours, tmp_path: Path) -> None:
    async with running_element(own_neighbours, tmp_path / "se") as element, catalog_of(own_neighbours) as catalog:
        begun, committed, undone = str(uuid7()), str(uuid7()), str(uuid7())
        files = {}
        for saga_id, state in ((begun, "begun"), (committed, "committed"), (undone, "compensating")):
            put = await element.put(b"bytes", saga_id=saga_id)
            files[saga_id] = put.json["file_id"]
            await catalog.add_saga(saga_id, files[saga_id], state)
        await catalog.run("TRUNCATE files")
        assert (await rebuilt(element))["phase"] == "done"
        assert await catalog.states() == {
            files[begun]: "pending",
            files[committed]: "available",
            files[undone]: "pending",
        }
        assert (await upkeep_of(element))["unconfirmed_files"] == 2


async def test_in_doubt_a_rebuild_keeps_the_file_once_its_lease_is_over(
    own_neighbours: Neighbours, tmp_path: Path
) -> None:
    """All of the database is lost: an acknowledged upload whose commit the element has not heard of must not go with it."""
    async with (
        running_element(own_neighbours, tmp_path / "se", SAGA_LEASE_S="3") as element,
        catalog_of(own_neighbours) as catalog,
    ):
        file_id = (await element.put(b"acknowledged")).json["file_id"]
        await catalog.run("TRUNCATE files")
        assert (await rebuilt(element))["phase"] == "done"
        assert await catalog.states() == {file_id: "available"}


async def test_puts_patches_and_deletes_during_a_rebuild_are_correct(
    own_neighbours: Neighbours, tmp_path: Path
) -> None:
    root = tmp_path / "se"
    async with running_element(own_neighbours, root) as element, catalog_of(own_neighbours) as catalog:
        file_ids = await put_files(element, catalog, 120)
        await catalog.run("TRUNCATE files")
        await element.ask("POST", "/api/element/rebuild", json={})
        new: list[str] = []

        async def change(file_id: str, how: int) -> None:
            if how == 0:
                await element.ask("PATCH", f"/api/files/{file_id}", json={"tags": ["during"]})
            elif how == 1:
                await element.ask("DELETE", f"/api/files/{file_id}")
            else:
                new.append((await element.put(b"during")).json["file_id"])

        for start in range(0, len(file_ids), 8):
            await asyncio.gather(*(change(file_id, n % 3) for n, file_id in enumerate(file_ids[start : start + 8])))
        await catalog.commit(*new)
        await eventually(lambda: all_confirmed(element))
        await rebuilt(element)
        assert await catalog.attributes() == on_disk(root)
        assert set((await catalog.states()).values()) == {"available"}
        assert len(on_disk(root)) == 120 - 45 + len(new)


async def test_a_killed_rebuild_resumes_at_the_next_start(own_neighbours: Neighbours, tmp_path: Path) -> None:
    root = tmp_path / "se"
    async with catalog_of(own_neighbours) as catalog:
        async with running_element(own_neighbours, root, ARTSTORE_POINT="rebuild.folder_done:kill:100") as element:
            await put_files(element, catalog, 30)
            await catalog.run("TRUNCATE files")
            await element.ask("POST", "/api/element/rebuild", json={})
            assert await asyncio.to_thread(element.process.wait, 120) == -signal.SIGKILL
        async with running_element(own_neighbours, root, SAGA_LEASE_S="1") as element:

            async def done() -> bool:
                return bool((await upkeep_of(element))["rebuild"]["phase"] == "done")

            await eventually(done)
            assert await catalog.attributes() == on_disk(root)
            assert len(on_disk(root)) == 30

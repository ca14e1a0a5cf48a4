"""Files and bytes are right again after a crash, counted beside puts and deletes; and what is confirmed is forgotten."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest

import app.upkeep.confirm
from app.store.store import Store
from app.upkeep.confirm import ALL_EVERY_ROUNDS, Confirm
from app.upkeep.generation import CatalogGeneration
from app.upkeep.journal import Journal
from app.upkeep.quarantine import FindingLog
from app.upkeep.reconcile import Reconciler
from app.upkeep.rows import Rows
from artstore.errors import Unavailable

from ..running import Neighbours, RunningElement, eventually, running_element
from ..store.support import opened, put_bytes
from .catalog import all_confirmed, catalog_of, upkeep_of
from .inside import inside_rows


async def usage_of(element: RunningElement) -> tuple[int, int]:
    capacity = (await element.ask("GET", "/api/element")).json["capacity"]
    return capacity["files"], capacity["used_bytes"]


def kept(root: Path) -> tuple[int, int]:
    data = [path for path in (root / "files").rglob("*") if path.is_file() and path.suffix != ".json"]
    return len(data), sum(path.stat().st_size for path in data)


async def test_usage_is_counted_after_a_crash_while_files_come_and_go(
    own_neighbours: Neighbours, tmp_path: Path
) -> None:
    root = tmp_path / "se"
    async with running_element(own_neighbours, root) as element:
        sizes = [100, 70_000, 5, 200_000, 0] * 8
        puts = await asyncio.gather(*(element.put(os.urandom(size)) for size in sizes))
        file_ids = [put.json["file_id"] for put in puts]
        await element.ask("DELETE", f"/api/files/{file_ids[0]}")
        element.stop(signal.SIGKILL)
    async with running_element(own_neighbours, root) as element:
        for number in range(1, 9):
            await element.put(os.urandom(50 * number))
            await element.ask("DELETE", f"/api/files/{file_ids[number]}")
            await element.ask("PUT", f"/api/files/{file_ids[number + 10]}/content", data=os.urandom(number))

        async def exact() -> bool:
            return bool((await upkeep_of(element))["usage_exact"])

        await eventually(exact)
        assert await usage_of(element) == kept(root)
        await element.put(b"one more")
        assert await usage_of(element) == kept(root)
        element.stop()
    async with running_element(own_neighbours, root) as element:
        assert (await upkeep_of(element))["usage_exact"]
        assert await usage_of(element) == kept(root)


async def test_committed_uploads_are_confirmed_and_open_ones_are_not(
    own_neighbours: Neighbours, tmp_path: Path
) -> None:
    root = tmp_path / "se"
    async with running_element(own_neighbours, root) as element, catalog_of(own_neighbours) as catalog:
        file_ids = [(await element.put(b"bytes")).json["file_id"] for _ in range(4)]
        await catalog.commit(*file_ids[:3])

        async def one_left() -> bool:
            return bool((await upkeep_of(element))["unconfirmed_files"] == 1)

        await eventually(one_left)
        await catalog.commit(file_ids[3])
        await eventually(lambda: all_confirmed(element))
        element.stop(signal.SIGKILL)
        async with running_element(own_neighbours, root) as again:
            await eventually(lambda: all_confirmed(again))


async def test_a_clean_stop_confirms_what_was_committed(own_neighbours: Neighbours, tmp_path: Path) -> None:
    """Unless the catalog is slow to answer, so it has three attempts."""
    root, left = tmp_path / "se", []
    for _ in range(3):
        async with running_element(own_neighbours, root) as element, catalog_of(own_neighbours) as catalog:
            await catalog.commit((await element.put(b"bytes")).json["file_id"])
            element.stop()
        async with opened(root) as store:
            left.append(len(store.unconfirmed))
        if left[-1] == 0:
            return
    raise AssertionError(f"unconfirmed after each stop: {left}")


async def test_a_slow_upload_is_confirmed_in_the_round_after_its_commit(
    own_neighbours: Neighbours, tmp_path: Path
) -> None:
    async with (
        inside_rows(own_neighbours) as (rows, catalog),
        opened(tmp_path, catalog) as store,
        catalog_of(own_neighbours) as sql,
    ):
        confirm = await confirm_with(store, rows, lease_s=300.0)
        await confirm.round()
        await sql.commit(await put_long_ago(store))
        await confirm.round()
        assert not store.unconfirmed


async def test_a_round_for_all_files_that_failed_is_repeated(
    own_neighbours: Neighbours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more files than one query asks for, the next such round would be half a minute later."""
    monkeypatch.setattr(app.upkeep.confirm, "BATCH", 1)
    async with (
        inside_rows(own_neighbours) as (rows, catalog),
        opened(tmp_path, catalog) as store,
        catalog_of(own_neighbours) as sql,
    ):
        confirm = await confirm_with(store, rows, lease_s=300.0)
        await sql.commit(*[await put_long_ago(store) for _ in range(3)])
        await sql.run("ALTER TABLE registry RENAME TO away")
        with pytest.raises(Unavailable):
            await confirm.round()
        await sql.run("ALTER TABLE away RENAME TO registry")
        await confirm.round()
        assert not store.unconfirmed


async def test_an_upload_whose_row_was_lost_is_reported_to_admin_again(
    own_neighbours: Neighbours, tmp_path: Path
) -> None:
    """PostgreSQL crashed and lost the pending row with the begin: admin finds the row and undoes the upload."""
    async with (
        inside_rows(own_neighbours) as (rows, catalog),
        opened(tmp_path, catalog) as store,
        catalog_of(own_neighbours) as sql,
    ):
        confirm = await confirm_with(store, rows, lease_s=0.0)
        await confirm.round()
        known, lost = [(await put_bytes(store, b"bytes")).attributes.file_id for _ in range(2)]
        await sql.commit(known)
        await sql.run("DELETE FROM files WHERE file_id = $1", lost)
        for _ in range(ALL_EVERY_ROUNDS):
            await confirm.round()
        assert await sql.states() == {known: "available", lost: "pending"}
        assert set(store.unconfirmed) == {lost}


async def test_nothing_is_undone_after_the_catalog_lost_files(own_neighbours: Neighbours, tmp_path: Path) -> None:
    async with (
        inside_rows(own_neighbours) as (rows, catalog),
        opened(tmp_path, catalog) as store,
        catalog_of(own_neighbours) as sql,
    ):
        confirm = await confirm_with(store, rows, lease_s=0.0)
        await sql.commit((await put_bytes(store, b"bytes")).attributes.file_id)
        await confirm.round()
        await put_bytes(store, b"acknowledged a moment before the catalog was lost")
        await sql.run("TRUNCATE files")
        for _ in range(ALL_EVERY_ROUNDS):
            await confirm.round()
        assert "has lost the file" in confirm.generation.doubt
        assert await sql.states() == {}


async def put_long_ago(store: Store) -> str:
    file_id = (await put_bytes(store, b"bytes")).attributes.file_id
    store.unconfirmed[file_id] = msgspec.structs.replace(store.unconfirmed[file_id], since_s=0.0)
    return file_id


async def confirm_with(store: Store, rows: Rows, *, lease_s: float) -> Confirm:
    journal = Journal(store.files.paths)
    generation = CatalogGeneration(store, rows, journal)
    await generation.load()
    reconciler = Reconciler(store, rows, FindingLog(store, journal), lease_s, lambda: generation.started_s)

    async def announce() -> None:
        """No admin is there to hear it."""

    return Confirm(store, generation, reconciler, lease_s, announce)

"""An odd file stops neither rebuild, scrub, expiry nor listing: it is one finding, and all other files are processed."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.store.backends import local
from app.store.get import list_files
from app.store.put import PutOrder, put
from app.store.store import Store
from app.upkeep import expire as expiry
from app.upkeep.expire import expire
from app.upkeep.generation import CatalogGeneration
from app.upkeep.journal import Journal
from app.upkeep.orphans import OrphanState, OrphanSweep
from app.upkeep.quarantine import FindingLog
from app.upkeep.rebuild import Rebuild, RebuildState
from app.upkeep.reconcile import Reconciler
from app.upkeep.rows import Rows
from app.upkeep.scrub import Scrub, ScrubState
from artstore.clock import Clock, rfc3339, uuid7
from artstore.modes import Operation

from ..running import Neighbours, eventually, running_element
from ..store.bad_sectors import BadSectors
from ..store.support import body_of, new_file, opened, put_bytes
from .catalog import Catalog, attributes_path, catalog_of, data_path, on_disk, upkeep_of
from .inside import inside_rows

ODD: dict[str, Any] = {
    "U+0000 in the name": {"filename": "a\0b"},
    "U+0000 in metadata": {"metadata": {"a": {"b": ["\0"]}}},
    "revision over int4": {"revision": 3_000_000_000},
    "a date of ISO weeks": {"created_at": "2026-W01-1T00:00:00Z"},
    "30 digits": {"metadata": {"n": 10**29}},
    "nested 300 deep": {"metadata": {"n": json.loads("[" * 300 + "]" * 300)}},
}
"""Whole by its own rules, and none of PostgreSQL's."""
DAMAGED: dict[str, Any] = {
    "size over bigint": {"size_bytes": 2**63},
    "half a surrogate": {"metadata": {"n": "\ud800"}},
    "NaN": {"metadata": {"n": float("nan")}},
    "a tag that is a number": {"tags": [1]},
    "nested 1500 deep": "[" * 1500 + "]" * 1500,
}
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@dataclass
class Site:
    store: Store
    rows: Rows
    sql: Catalog
    found: FindingLog
    reconciler: Reconciler
    root: Path

    async def put(self, content: bytes = b"sound") -> str:
        file_id = (await put_bytes(self.store, content)).attributes.file_id
        await self.sql.commit(file_id)
        self.store.confirm([file_id])
        return file_id

    async def rebuild(self) -> RebuildState:
        state = RebuildState(started_at=self.store.now())
        await Rebuild(self.store, self.rows, self.reconciler, self.found, self.found.journal).run(state)
        return state

    async def verify(self) -> ScrubState:
        state = ScrubState(started_at=self.store.now())
        await Scrub(self.store, self.reconciler, self.found, self.found.journal, Clock(), 0).run(state)
        return state

    def findings(self) -> dict[str, tuple[str, str]]:
        path = self.root / "upkeep" / "findings.jsonl"
        found = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
        assert len(found) == len({(one["file_id"], one["problem"]) for one in found}), found
        return {one["file_id"]: (one["problem"], one["action"]) for one in found}


@asynccontextmanager
async def site(neighbours: Neighbours, root: Path) -> AsyncIterator[Site]:
    async with (
        inside_rows(neighbours) as (rows, catalog),
        opened(root, catalog) as store,
        catalog_of(neighbours) as sql,
    ):
        found = FindingLog(store, Journal(store.files.paths))
        yield Site(store, rows, sql, found, Reconciler(store, rows, found, 300.0, lambda: 0.0), root)


def edit(path: Path, change: dict[str, Any] | str) -> None:
    """`change`: fields, or the whole of metadata as text that Python itself cannot build."""
    fields = json.loads(path.read_bytes())
    if isinstance(change, str):
        path.write_text(json.dumps({**fields, "metadata": {"n": 0}}).replace('{"n": 0}', f'{{"n": {change}}}'))
    else:
        path.write_text(json.dumps({**fields, **change}, ensure_ascii=True))


async def test_a_rebuild_skips_attributes_that_postgresql_refuses(own_neighbours: Neighbours, tmp_path: Path) -> None:
    async with site(own_neighbours, tmp_path / "se") as se:
        sound = [await se.put() for _ in range(20)]
        odd = {name: await se.put() for name in ODD}
        damaged = {name: await se.put() for name in DAMAGED}
        marked = await se.put()
        for name, change in (ODD | DAMAGED).items():
            edit(attributes_path(se.root, (odd | damaged)[name]), change)
        attributes_path(se.root, marked).write_bytes(b"\xef\xbb\xbf" + attributes_path(se.root, marked).read_bytes())
        await se.sql.run("TRUNCATE files")
        state = await se.rebuild()
        assert (state.phase, state.refused, state.put_aside, state.error) == ("done", len(ODD), len(DAMAGED), None)
        assert set(await se.sql.states()) == {*sound, marked}
        found = se.findings()
        assert {file_id: found[file_id] for file_id in odd.values()} == dict.fromkeys(odd.values(), ("refused", "kept"))
        assert {found[file_id][1] for file_id in damaged.values()} == {"quarantined"}
        assert set(on_disk(se.root)) == {*sound, *odd.values(), marked}
        listed, _ = list_files(se.store, "", 1000)
        assert {one.file_id for one in listed} == {*sound, *odd.values(), marked}
        verified = await se.verify()
        assert (verified.files, verified.damaged, verified.error) == (len(listed), 0, None)


async def test_odd_attributes_are_listed_and_read_over_http(own_neighbours: Neighbours, tmp_path: Path) -> None:
    root = tmp_path / "se"
    async with running_element(own_neighbours, root) as element:
        sound = (await element.put(b"sound")).json["file_id"]
        odd = [(await element.put(b"odd")).json["file_id"] for _ in ODD]
        for file_id, change in zip(odd, ODD.values(), strict=True):
            edit(attributes_path(root, file_id), change)
        path = attributes_path(root, sound)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        listed = await element.ask("GET", "/api/files?limit=1000")
        assert listed.status == 200
        assert {one["file_id"] for one in json.loads(listed.body)["items"]} == {sound, *odd}
        for file_id in (sound, *odd):
            answer = await element.ask("GET", f"/api/files/{file_id}")
            assert (answer.status, json.loads(answer.body)["file_id"]) == (200, file_id)
            assert (await element.ask("GET", f"/api/files/{file_id}/content")).status == 200


async def test_one_refused_row_does_not_delay_other_puts(own_neighbours: Neighbours, tmp_path: Path) -> None:
    async with inside_rows(own_neighbours) as (_, catalog), catalog_of(own_neighbours) as sql:
        async with opened(tmp_path) as store:
            good = [(await put_bytes(store, b"x")).attributes for _ in range(30)]
        bad = msgspec.structs.replace(good[17], file_id=str(uuid7()), revision=2**40)
        worse = msgspec.structs.replace(good[3], file_id=str(uuid7()), metadata={"n": 10**29})
        answers = await asyncio.gather(
            *(catalog.note(one, saga_id=None, change="put") for one in (*good[:15], bad, worse, *good[15:])),
            return_exceptions=True,
        )
        assert [type(one).__name__ for one in answers if one is not None] == ["RowRefused", "RowRefused"]
        assert set(await sql.states()) == {one.file_id for one in good}


async def test_an_unreadable_file_is_reported_and_stays(
    own_neighbours: Neighbours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = BadSectors()
    monkeypatch.setattr(local, "os", disk)
    async with site(own_neighbours, tmp_path / "se") as se:
        sound, bytes_bad, attributes_bad = [await se.put(b"x" * 3000) for _ in range(3)]
        states = await se.sql.states()
        disk.bad[str(data_path(se.root, bytes_bad))] = errno.EIO
        disk.bad[str(attributes_path(se.root, attributes_bad))] = errno.EIO
        verified = await se.verify()
        assert (verified.files, verified.damaged, verified.unreadable) == (1, 0, 2)
        disk.opens[str(data_path(se.root, bytes_bad))] = errno.EIO
        assert (await se.rebuild()).phase == "done"
        await OrphanSweep(se.store, se.rows, se.found, -5.0).run(OrphanState(started_at="", dry_run=False))
        assert await se.sql.states() == states
        assert os.listdir(se.root / "quarantine") == []
        assert se.store.disk_health.failure is None
        assert se.found.counts["unreadable"] >= 3
        disk.bad.clear()
        disk.opens.clear()
        assert (await se.verify()).files == 3
        assert set(on_disk(se.root)) == {sound, bytes_bad, attributes_bad}


async def test_expiry_skips_files_that_cannot_be_deleted(
    own_neighbours: Neighbours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "PAGE", 4)
    monkeypatch.setattr(expiry, "CONCURRENCY", 3)
    disk = BadSectors()
    monkeypatch.setattr(local, "os", disk)
    async with site(own_neighbours, tmp_path / "se") as se:

        async def put_due(minutes: int) -> str:
            due = rfc3339(NOW - timedelta(minutes=minutes))
            new = msgspec.structs.replace(new_file(), retention="temporary", expires_at=due)
            result = await put(se.store, PutOrder(str(uuid7()), new, str(uuid7())), body_of(b"x" * 300))
            await se.sql.commit(result.attributes.file_id)
            return result.attributes.file_id

        damaged, gone, unreadable, aside = [await put_due(100 - n) for n in range(4)]
        due = [await put_due(50) for _ in range(12)] + [await put_due(40 - n) for n in range(12)]
        attributes_path(se.root, damaged).write_bytes(b"{")
        for path in (attributes_path(se.root, gone), data_path(se.root, gone)):
            path.unlink()
        disk.bad[str(attributes_path(se.root, unreadable))] = errno.EIO
        se.store.files.quarantine(aside)
        assert await expire(se.store, se.rows, frozenset(Operation), NOW) == len(due)
        assert set(await se.sql.states()) == {damaged, gone, unreadable, aside}
        assert await expire(se.store, se.rows, frozenset(Operation), NOW) == 0
        assert attributes_path(se.root, damaged).exists()
        disk.bad.clear()
        assert await expire(se.store, se.rows, frozenset(Operation), NOW) == 1


STRAYS: list[str | bytes] = [".DS_Store", "Thumbs.db", ".nfs00000000deadbeef", "desktop.ini", b"\xff.txt"]


async def test_strays_are_counted_and_left_alone(own_neighbours: Neighbours, tmp_path: Path) -> None:
    async with site(own_neighbours, tmp_path / "se") as se:
        file_id = await se.put()
        folder = data_path(se.root, file_id).parent
        names = [os.fsencode(name) for name in STRAYS] + [
            os.fsencode(name)
            for name in (
                f"._{file_id}",
                f"._{file_id}.attr.json",
                f".{file_id}.attr.json.Xy12Zz",
                f"{file_id}.attr.json.tmp",
                f"{uuid7()}"[:-4] + ("0000" if file_id[-4:] != "0000" else "0001"),
            )
        ]
        for where in (folder, folder.parent, folder.parents[1]):
            for name in names:
                with open(os.fsencode(where) + b"/" + name, "wb") as file:
                    file.write(b"\0\5\x16\7")
            (where / "@eaDir").mkdir()
            (where / "@eaDir" / f"{file_id}.attr.json").write_bytes(b"{}")
        before = sorted(os.listdir(os.fsencode(folder)))
        verified = await se.verify()
        assert (verified.files, verified.damaged, verified.strays) == (1, 0, 3 * (len(names) + 1))
        assert any(name.endswith("\\xff.txt") for name in verified.stray_names)
        assert (await se.rebuild()).files == 1
        swept = OrphanState(started_at="", dry_run=False)
        await OrphanSweep(se.store, se.rows, se.found, -5.0).run(swept)
        assert swept.orphans == 0
        assert sorted(os.listdir(os.fsencode(folder))) == before
        assert os.listdir(se.root / "quarantine") == []
        assert se.found.counts == {}
        assert se.store.findings.damaged == 0
        assert [one.file_id for one in list_files(se.store, "", 100)[0]] == [file_id]


async def test_a_failed_task_shows_its_error(own_neighbours: Neighbours, tmp_path: Path) -> None:
    """Its state cannot be written, because a folder has its name."""
    root = tmp_path / "se"
    async with running_element(own_neighbours, root) as element:
        for task in ("rebuild", "verify"):
            (root / "upkeep" / f"{task}.json").mkdir()
            assert (await element.ask("POST", f"/api/element/{task}", json={})).status == 202

            async def ended(task: str = task) -> dict[str, Any] | None:
                upkeep = await upkeep_of(element)
                return dict(upkeep[task]) if upkeep[task]["finished_at"] and task not in upkeep["running"] else None

            state = await eventually(ended)
            assert state["error"]
        element.stop()
    async with running_element(own_neighbours, root) as element:
        assert (await element.put(b"x")).status == 201


async def test_dangling_links_keep_their_files_and_rows(own_neighbours: Neighbours, tmp_path: Path) -> None:
    async with site(own_neighbours, tmp_path / "se") as se:
        bare, bad = await se.put(), await se.put()
        for path in (attributes_path(se.root, bare), data_path(se.root, bad)):
            path.rename(tmp_path / path.name)
            path.symlink_to(tmp_path / "unmounted" / path.name)
        assert (await se.rebuild()).unreadable == 2
        await se.verify()
        await OrphanSweep(se.store, se.rows, se.found, -1.0).run(OrphanState(started_at="", dry_run=False))
        assert set(await se.sql.states()) == {bare, bad}
        (tmp_path / "unmounted").symlink_to(tmp_path)
        assert {one.file_id for one in list_files(se.store, "", 10)[0]} == {bare, bad}
        assert (await se.verify()).files == 2


@pytest.mark.parametrize("odd", ["damaged", "foreign", "halved"])
async def test_a_row_removed_by_the_element_does_not_mean_a_lost_catalog(
    own_neighbours: Neighbours, tmp_path: Path, odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged file that cannot be quarantined stays on the disk without a row."""
    async with site(own_neighbours, tmp_path / "se") as se:
        generation = CatalogGeneration(se.store, se.rows, se.found.journal)
        await generation.load()
        await generation.query([])
        file_id, lost = await se.put(), await se.put()
        await generation.add_witnesses([file_id, lost])
        if odd == "damaged":
            attributes_path(se.root, file_id).write_bytes(b"{")
        elif odd == "foreign":
            edit(attributes_path(se.root, file_id), {"storage_element_id": "se-99"})
        else:
            data_path(se.root, file_id).write_bytes(b"")
        monkeypatch.setattr(se.store.files, "quarantine", _refused)
        await se.rebuild()
        assert set(await se.sql.states()) == {lost}
        await generation.query([])
        assert generation.doubt == ""
        await generation.add_witnesses([file_id])
        await se.sql.run("DELETE FROM files WHERE file_id = $1", lost)
        await generation.query([])
        assert lost in generation.doubt


def _refused(_: str) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")

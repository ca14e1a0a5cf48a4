"""Expired files are deleted and orphans are removed; neither removes any other file."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.store.delete import delete
from app.store.put import PutOrder, put
from app.store.store import FileChange
from app.upkeep.expire import expire, has_expired
from app.upkeep.journal import Journal
from app.upkeep.orphans import OrphanState, OrphanSweep
from app.upkeep.quarantine import FindingLog
from artstore.clock import Clock, rfc3339, uuid7
from artstore.contracts.elements import Mode
from artstore.contracts.files import NewFile
from artstore.modes import ALLOWED

from ..running import Neighbours
from ..store.support import body_of, new_file, opened, put_bytes
from .catalog import attributes_path, catalog_of, data_path
from .inside import inside_rows

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
GRACE_S = 3600.0


def temporary(expires_at: datetime) -> NewFile:
    permanent = new_file("draft.txt")
    return NewFile(
        filename=permanent.filename,
        content_type=permanent.content_type,
        owner=permanent.owner,
        tags=[],
        metadata={},
        retention="temporary",
        expires_at=rfc3339(expires_at),
    )


async def test_only_expired_files_are_deleted_and_only_if_the_mode_allows(
    own_neighbours: Neighbours, tmp_path: Path
) -> None:
    recorded: list[FileChange] = []

    async def record(change: FileChange) -> None:
        recorded.append(change)

    async with (
        inside_rows(own_neighbours) as (rows, catalog),
        opened(tmp_path, catalog, record_change=record) as store,
        catalog_of(own_neighbours) as sql,
    ):
        file_ids = {name: str(uuid7()) for name in ("over", "just", "later", "longer", "pending")}
        ends = {"over": -1, "just": 0, "later": 1, "longer": -1, "pending": -1}
        for name, file_id in file_ids.items():
            order = PutOrder(file_id, temporary(NOW + timedelta(seconds=ends[name])), str(uuid7()))
            await put(store, order, body_of(b"draft"))
        permanent = (await put_bytes(store, b"to stay")).attributes.file_id
        await sql.commit(permanent, *(file_id for name, file_id in file_ids.items() if name != "pending"))
        for mode in (Mode.RW, Mode.RO, Mode.AR):
            assert await expire(store, rows, ALLOWED[mode], NOW) == 0
        # The row says it is over, attr.json says it is not: the disk decides.
        attributes = attributes_path(tmp_path, file_ids["longer"])
        text = attributes.read_text().replace(rfc3339(NOW - timedelta(seconds=1)), rfc3339(NOW + timedelta(days=1)))
        attributes.write_text(text)
        assert await expire(store, rows, ALLOWED[Mode.EDIT], NOW) == 2
        deleted = {FileChange("delete", file_ids[name], "se-01", 2, 5) for name in ("over", "just")}
        assert set(recorded) == deleted
        left = {path.name.removesuffix(".attr.json") for path in (tmp_path / "files").rglob("*.attr.json")}
        assert left == {file_ids["later"], file_ids["longer"], file_ids["pending"], permanent}
        assert set(await sql.states()) == left
        assert await expire(store, rows, ALLOWED[Mode.EDIT], NOW) == 0


@pytest.mark.parametrize("ahead", [timedelta(days=40), timedelta(days=-40)])
async def test_a_file_is_due_by_the_earlier_of_both_clocks(own_neighbours: Neighbours, ahead: timedelta) -> None:
    class Wrong(Clock):
        def now(self) -> datetime:
            return super().now() + ahead

    async with inside_rows(own_neighbours) as (rows, _):
        agreed = await rows.agreed_now(Wrong())
    assert agreed <= datetime.now(UTC)
    assert agreed <= Wrong().now()


async def test_a_permanent_file_never_expires(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        attributes = (await put_bytes(store, b"x")).attributes
    assert not has_expired(attributes, NOW + timedelta(days=100_000))


@pytest.mark.parametrize("dry_run", [True, False])
async def test_old_orphans_and_temps_are_removed_and_young_ones_stay(
    own_neighbours: Neighbours, tmp_path: Path, dry_run: bool
) -> None:
    async with (
        inside_rows(own_neighbours) as (rows, catalog),
        opened(tmp_path, catalog) as store,
        catalog_of(own_neighbours) as sql,
    ):
        whole, bare, lost = [(await put_bytes(store, os.urandom(99))).attributes.file_id for _ in range(3)]
        await sql.commit(whole, bare, lost)
        data_path(tmp_path, bare).unlink()
        attributes_path(tmp_path, lost).unlink()
        never = str(uuid7())
        data_path(tmp_path, never).parent.mkdir(parents=True, exist_ok=True)
        data_path(tmp_path, never).write_bytes(b"a put that a crash left")
        old_temp, young_temp = tmp_path / "tmp" / f"{uuid7()}.1", tmp_path / "tmp" / f"{uuid7()}.2"
        old_temp.write_bytes(b"old")
        young_temp.write_bytes(b"young")
        os.utime(old_temp, (0, time.time() - 2 * GRACE_S))
        found = FindingLog(store, Journal(store.files.paths))

        await OrphanSweep(store, rows, found, GRACE_S).run(state := OrphanState(started_at="", dry_run=dry_run))
        assert (state.orphans, state.temps) == (0, 1)
        assert old_temp.exists() is dry_run
        assert young_temp.exists()

        await OrphanSweep(store, rows, found, -1.0).run(state := OrphanState(started_at="", dry_run=dry_run))
        assert state.orphans == 3
        assert data_path(tmp_path, whole).exists()
        assert data_path(tmp_path, never).exists() is dry_run
        quarantine = {path.name for path in (tmp_path / "quarantine").iterdir()}
        assert quarantine == (set() if dry_run else {f"{bare}.attr.json", lost})
        assert young_temp.exists() is dry_run


async def test_a_sweep_leaves_a_running_put_alone(own_neighbours: Neighbours, tmp_path: Path) -> None:
    """Swept with no grace at all, in the middle of an upload: its temp has an owner."""
    async with inside_rows(own_neighbours) as (rows, catalog), opened(tmp_path, catalog) as store:
        found = FindingLog(store, Journal(store.files.paths))
        file_id, states = str(uuid7()), list[tuple[int, int]]()

        async def sweeping_body() -> AsyncIterator[bytes]:
            yield os.urandom(200_000)
            await OrphanSweep(store, rows, found, -1.0).run(state := OrphanState(started_at="", dry_run=False))
            states.append((state.orphans, state.temps))
            yield os.urandom(200_000)

        body = body_of(b"", stated=False)
        body._chunks = sweeping_body()
        result = await put(store, PutOrder(file_id, new_file(), str(uuid7())), body)
        assert result.attributes.size_bytes == 400_000
        assert states == [(0, 0)]
        await delete(store, file_id)
        assert not data_path(tmp_path, file_id).exists()

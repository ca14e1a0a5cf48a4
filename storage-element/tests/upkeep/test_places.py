"""Rebuild, recount, scrub and orphan sweep, with files on a disk and in S3."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import Any

import obstore
import pytest

from app.api.transfer import FileResponse
from app.store.backends.s3 import S3Backend, attributes_key, data_key
from app.store.get import open_file
from app.store.paths import ATTRIBUTES_SUFFIX
from app.store.store import Store
from app.upkeep.journal import Journal
from app.upkeep.orphans import OrphanState, OrphanSweep
from app.upkeep.quarantine import FindingLog
from app.upkeep.rebuild import Rebuild, RebuildState
from app.upkeep.reconcile import Reconciler
from app.upkeep.scrub import Scrub, ScrubState
from app.upkeep.usage import recount
from artstore.clock import Clock, uuid7
from artstore.errors import FileDamaged, Quarantined
from artstore.http.body import BodyRateLimits
from artstore.testing.services import S3Server

from ..running import Neighbours
from ..store.places import Place, in_s3, on_disk, opened_at, s3_settings
from ..store.support import put_bytes
from .catalog import catalog_of
from .inside import inside_rows


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, s3: S3Server) -> Place:
    return on_disk if request.param == "disk" else in_s3(s3_settings(s3))


def write(store: Store, file_id: str, content: bytes, *, attributes: bool = False) -> None:
    """Behind the store's back."""
    if isinstance(store.files, S3Backend):
        key = attributes_key(file_id) if attributes else data_key(file_id)
        obstore.put(store.files.objects.store, key, content)
        return
    paths = store.files.paths
    os.makedirs(paths.folder(file_id), exist_ok=True)
    Path(paths.data(file_id) + (ATTRIBUTES_SUFFIX if attributes else "")).write_bytes(content)


def remove(store: Store, file_id: str) -> None:
    """Its attr.json, behind the store's back."""
    if isinstance(store.files, S3Backend):
        obstore.delete(store.files.objects.store, attributes_key(file_id))
    else:
        os.unlink(store.files.paths.attributes(file_id))


async def test_a_damaged_file_is_never_sent_to_its_end(
    own_neighbours: Neighbours, tmp_path: Path, place: Place
) -> None:
    async with (
        inside_rows(own_neighbours) as (rows, catalog),
        opened_at(tmp_path / "se", place, catalog) as store,
    ):
        found = FindingLog(store, journal := Journal(store.files.paths))
        reconciler = Reconciler(store, rows, found, 300.0, lambda: 0.0)
        suspects: list[str] = []

        async def sent(file_id: str, first: int = 0) -> tuple[list[int], bytes]:
            """The statuses and bytes that a client gets."""
            messages: list[Any] = []
            opened = await open_file(store, file_id)
            size = opened.attributes.size_bytes
            answer = FileResponse(opened, 200, [], first, size, BodyRateLimits(60, 0), suspects.append)
            try:
                await answer({"type": "http"}, _nothing, partial(_keep, messages))
            except FileDamaged:
                pass
            return [one["status"] for one in messages if "status" in one], b"".join(
                one.get("body", b"") for one in messages
            )

        for size in (1000, 70_000, 1 << 20, 3_000_000, 9_000_000):
            content = os.urandom(size)
            file_id = (await put_bytes(store, content)).attributes.file_id
            assert await sent(file_id) == ([200], content)
            data = store.files.open_data(file_id)
            assert data is not None
            assert store.verified.has(file_id, data.version()) is (size > 8 << 20), "large data is not hashed again"
            data.close()
            damaged = content[:-1] + bytes([content[-1] ^ 1])
            write(store, file_id, damaged)
            statuses, received = await sent(file_id)
            assert (
                received == damaged[: size // (1 << 20) * (1 << 20)]
                if size > 1 << 20
                else (statuses, received) == ([], b"")
            )
            assert suspects == [file_id]
            assert await sent(file_id, first=1) == ([200], damaged[1:]), "of a part it cannot be known"
            write(store, file_id, content)
            scrub = Scrub(store, reconciler, found, journal, Clock(), 0)
            await scrub.check_locked(ScrubState(started_at=""), suspects.pop())
            assert await sent(file_id) == ([200], content), "a second reading decides"
            write(store, file_id, damaged)
            await scrub.check_locked(ScrubState(started_at=""), file_id)
            with pytest.raises(Quarantined):
                await open_file(store, file_id)


async def _nothing() -> Any:
    await asyncio.Event().wait()


async def _keep(messages: list[Any], message: Any) -> None:
    messages.append(message)


async def test_upkeep_does_the_same_on_every_backend(own_neighbours: Neighbours, tmp_path: Path, place: Place) -> None:
    async with (
        inside_rows(own_neighbours) as (rows, catalog),
        opened_at(tmp_path / "se", place, catalog) as store,
        catalog_of(own_neighbours) as sql,
    ):
        found = FindingLog(store, journal := Journal(store.files.paths))
        reconciler = Reconciler(store, rows, found, 300.0, lambda: 0.0)
        contents = [os.urandom(size) for size in (0, 1000, 70_000, 20, 5000, 300)]
        file_ids = [(await put_bytes(store, content)).attributes.file_id for content in contents]
        await sql.commit(*file_ids)
        store.unconfirmed.clear()
        before = await sql.attributes()

        # rebuild: the same rows again; a damaged attr.json is quarantined
        await sql.run("TRUNCATE files")
        await Rebuild(store, rows, reconciler, found, journal).run(state := RebuildState(started_at=store.now()))
        assert (state.phase, state.files) == ("done", 6)
        assert await sql.attributes() == before
        write(store, file_ids[0], b"{", attributes=True)
        await Rebuild(store, rows, reconciler, found, journal).run(state := RebuildState(started_at=store.now()))
        assert (state.phase, state.put_aside) == ("done", 1)

        # verify: other bytes of the same length under an old checksum
        write(store, file_ids[1], bytes(1000))
        await Scrub(store, reconciler, found, journal, Clock(), 0).run(verified := ScrubState(started_at=store.now()))
        assert (verified.files, verified.damaged) == (5, 1)
        for file_id in file_ids[:2]:
            with pytest.raises(Quarantined):
                await _read(store, file_id)

        # sweep: data without attributes, of a file that the catalog knows and of an unknown one
        remove(store, file_ids[2])
        write(store, unknown := str(uuid7()), b"left by a crash")
        await OrphanSweep(store, rows, found, -5.0).run(swept := OrphanState(started_at="", dry_run=False))
        assert swept.orphans == 2
        assert store.files.open_data(unknown) is None
        assert store.files.is_quarantined(file_ids[2])
        assert not store.files.is_quarantined(unknown)

        # recount: what is left
        await recount(store)
        assert (store.usage.files, store.usage.bytes_used) == (3, 5320)
        await Rebuild(store, rows, reconciler, found, journal).run(RebuildState(started_at=store.now()))
        assert set(await sql.states()) == set(file_ids[3:])


async def _read(store: Store, file_id: str) -> None:

    (await open_file(store, file_id)).close()

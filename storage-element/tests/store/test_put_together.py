"""Small files put together: each has its own outcome, and what cannot be put at once is left to a put of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.store.locks import FileLocks
from app.store.put import PutOrder, PutResult
from app.store.put_together import Outcome, put_together
from app.store.receive import Expected
from app.store.settle_late import settle_late_rows
from app.store.store import Store
from artstore.clock import uuid7
from artstore.errors import DigestMismatch, InternalError

from .support import RememberingCatalog, check_settled, new_file, opened, put_bytes

CONTENT = b"content"


def order_of(file_id: str | None = None, *, late: bool = True, expected: Expected | None = None) -> PutOrder:
    return PutOrder(file_id or str(uuid7()), new_file(), str(uuid7()), expected or Expected(), late)


async def together(store: Store, *orders: PutOrder, content: bytes = CONTENT) -> list[Outcome]:
    return await store.complete(put_together(store, [(order, content) for order in orders]))


async def test_files_share_syncs_and_each_has_its_outcome(tmp_path: Path) -> None:
    catalog = RememberingCatalog()
    async with opened(tmp_path, catalog, segment_bytes=32 << 20) as store:
        taken = await put_bytes(store, b"taken")
        good = [order_of() for _ in range(100)]
        syncs = store.wal.syncs
        outcomes = await together(
            store,
            *good,
            order_of(good[0].file_id),
            order_of(taken.attributes.file_id),
            order_of(late=False),
            order_of(expected=Expected(sha256=bytes(32))),
        )
        assert store.wal.syncs <= syncs + 5  # some records may have been queued while the log was written
        assert [one.attributes.file_id for one in outcomes if isinstance(one, PutResult)] == [o.file_id for o in good]
        assert outcomes[100:103] == [None] * 3
        assert isinstance(outcomes[103], DigestMismatch)
        await settle_late_rows(store)
        assert len(check_settled(tmp_path, store, catalog)) == 101


async def test_nothing_is_put_together_while_the_catalog_does_not_answer_or_the_disk_is_full(tmp_path: Path) -> None:
    catalog = RememberingCatalog()
    async with opened(tmp_path, catalog, segment_bytes=32 << 20) as store:
        catalog.away = True
        assert await together(store, order_of()) == [None]
        catalog.away = False
        free_bytes = store.space.available_bytes()
        taken = store.space.reservation()
        taken.ensure(free_bytes - (1 << 20))
        assert await together(store, *(order_of() for _ in range(500))) == [None] * 500
        taken.release()
        assert (store.space.in_flight_bytes, store.late_bytes) == (0, 0)
        assert check_settled(tmp_path, store, catalog) == {}


async def test_a_file_that_the_disk_refuses_leaves_nothing_and_fails_no_other(tmp_path: Path) -> None:
    catalog = RememberingCatalog()
    async with opened(tmp_path, catalog, segment_bytes=32 << 20) as store:
        refused, good = order_of(), order_of()
        (tmp_path / "tmp" / f"{refused.file_id}.1.attr.json").touch()  # where its attributes should be written
        outcomes = await together(store, refused, good)
        assert (type(outcomes[0]), type(outcomes[1])) == (InternalError, PutResult)
        await settle_late_rows(store)
        assert set(check_settled(tmp_path, store, catalog)) == {good.file_id}


async def test_a_lock_passes_to_the_one_who_waits_longest_and_not_to_one_who_has_gone() -> None:
    locks, entered = FileLocks(), []

    async def enter(name: str) -> None:
        async with locks.hold("file"):
            entered.append(name)
            await asyncio.sleep(0)

    first = locks.hold("file")
    assert first.enter_free()
    assert not locks.hold("file").enter_free()
    waiting = [asyncio.create_task(enter(name)) for name in ("gone", "second", "third", "late")]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    first.leave()
    waiting[1].cancel()  # just after its turn has come
    await asyncio.wait(waiting)
    assert entered == ["third", "late"]
    assert locks.is_free("file")


@pytest.mark.parametrize("watched", ["free", "held"])
async def test_a_watch_sees_a_lock_however_it_is_taken(watched: str) -> None:
    locks = FileLocks()
    hold = locks.hold(watched)
    if watched == "held":
        hold.enter_free()
    with locks.watch() as locked:
        hold.enter_free()
    assert locked == {watched}

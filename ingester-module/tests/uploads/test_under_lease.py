from __future__ import annotations

import asyncio

import pytest

from app.uploads.upload import under_lease
from artstore.errors import StorageFull, Unavailable


class Begins:
    """Counts begins, and fails the given ones."""

    def __init__(self, *failing: int, lease_s: float = 300) -> None:
        self.count, self.failing, self.lease_s = 0, failing, lease_s

    async def __call__(self) -> float:
        self.count += 1
        await asyncio.sleep(0)
        if self.count in self.failing:
            raise Unavailable("admin is away")
        return self.lease_s


async def moving(seconds: float = 0.0, seen: list[str] | None = None) -> str:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        if seen is not None:
            seen.append("cancelled")
        raise
    return "moved"


async def failing() -> str:
    raise StorageFull("no room")


async def test_the_transfer_runs_beside_the_begin() -> None:
    assert await under_lease(Begins(), moving()) == "moved"


async def test_a_begin_that_fails_stops_the_transfer() -> None:
    seen: list[str] = []
    with pytest.raises(Unavailable):
        await under_lease(Begins(1), moving(60, seen))
    assert seen == ["cancelled"]


async def test_a_short_transfer_needs_no_begin() -> None:
    begins = Begins(1)
    assert await under_lease(begins, moving(), begin_after_s=60) == "moved"
    with pytest.raises(StorageFull):
        await under_lease(begins, failing(), begin_after_s=60)
    assert begins.count == 0


async def test_a_transfer_that_lasts_longer_begins_while_it_runs() -> None:
    begins, seen = Begins(1), list[str]()
    with pytest.raises(Unavailable):
        await under_lease(begins, moving(60, seen), begin_after_s=0.01)
    assert (begins.count, seen) == (1, ["cancelled"])


async def test_a_failed_transfer_raises_its_own_error() -> None:
    with pytest.raises(StorageFull):
        await under_lease(Begins(), failing())


async def test_a_long_transfer_renews_its_lease_and_survives_a_failed_renewal() -> None:
    begins = Begins(2, 3, lease_s=0.05)
    assert await under_lease(begins, moving(0.2)) == "moved"
    assert begins.count > 3


async def test_a_cancelled_caller_cancels_the_transfer() -> None:
    seen: list[str] = []
    task = asyncio.create_task(under_lease(Begins(), moving(60, seen)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]

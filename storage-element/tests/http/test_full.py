"""An upload that does not fit is refused early, and admin learns of it at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from artstore.contracts.storage import AT_MOST_HEADER

from ..running import Neighbours, running_element

QUOTA_BYTES, PIECE_BYTES = 4 << 20, 1 << 18


async def endless(sent: list[int]) -> AsyncIterator[bytes]:
    while True:
        await asyncio.sleep(0)
        sent.append(1)
        yield bytes(1 << 16)


async def test_a_body_that_may_not_fit_is_refused_before_it_is_sent(neighbours: Neighbours, tmp_path: Path) -> None:
    sent: list[int] = []
    async with running_element(neighbours, tmp_path / "se-01", STORAGE_QUOTA_BYTES=str(QUOTA_BYTES)) as element:
        early = {AT_MOST_HEADER: str(QUOTA_BYTES), "expect": "100-continue"}
        assert (await element.put(endless(sent), **early)).status == 507
        assert sent == []
        assert (await element.put(endless(sent), **{AT_MOST_HEADER: "many"})).status == 400
        assert (await element.put(b"x" * 1000, **{AT_MOST_HEADER: str(1 << 20)})).status == 201


async def test_a_refused_upload_is_followed_by_a_report(neighbours: Neighbours, tmp_path: Path) -> None:
    space = {"STORAGE_QUOTA_BYTES": str(QUOTA_BYTES), "ELEMENT_ANNOUNCE_EVERY_S": "3600"}
    async with running_element(neighbours, tmp_path / "se-01", **space) as element:
        assert (await element.put(bytes(2 << 20))).status == 201
        before = len(neighbours.admin.reports)
        answers = await asyncio.gather(*(element.put(bytes(2 << 20)) for _ in range(5)))
        assert {answer.status for answer in answers} == {507}
        assert len(neighbours.admin.reports) > before
        assert neighbours.admin.reports[-1].capacity.used_bytes == 2 << 20


async def test_a_body_without_a_length_stays_within_the_quota(neighbours: Neighbours, tmp_path: Path) -> None:
    sent: list[int] = []
    async with running_element(neighbours, tmp_path / "se-01", STORAGE_QUOTA_BYTES=str(QUOTA_BYTES)) as element:
        assert (await element.put(slowly(sent))).status == 507
        assert len(sent) <= QUOTA_BYTES // PIECE_BYTES
        assert (await element.put(bytes(2 << 20))).status == 201, "its bytes are no longer counted"


async def slowly(sent: list[int]) -> AsyncIterator[bytes]:
    """So that the space is measured again meanwhile."""
    while True:
        await asyncio.sleep(0.06)
        sent.append(1)
        yield bytes(PIECE_BYTES)

"""kill -9 while groups of small files are being put: what was answered stays, and every other file is whole or absent."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import aiohttp
import pytest

from artstore.clock import uuid7
from artstore.contracts.storage import PUT_GROUP_PATH, PUT_GROUP_TYPE, GroupedPut, decode_results, encode_group

from ..running import Neighbours, RunningElement, running_element
from ..store.support import new_file
from .journal import ABSENT, State, state_of
from .outside import check_element

GROUPS, FILES, BYTES = 6, 16, 3000


@pytest.mark.parametrize(
    "point",
    [
        "wal.written:kill:2",
        "wal.synced:kill:2",
        "put.small.data_written:kill:40",
        "put.published:kill:40",
        "put.noted:kill:40",
        "late.found:kill",
    ],
)
async def test_an_element_killed_amid_groups_keeps_what_it_acknowledged(
    own_neighbours: Neighbours, tmp_path: Path, point: str
) -> None:
    allowed: dict[str, list[State]] = {}
    async with running_element(own_neighbours, tmp_path / "se", ARTSTORE_POINT=point) as element:
        await asyncio.gather(*(put_group(element, allowed) for _ in range(GROUPS)))
        assert await asyncio.to_thread(element.process.wait, 120) != 0, "the point was not reached"
    async with running_element(own_neighbours, tmp_path / "se") as element:
        await check_element(element, own_neighbours, allowed)


async def put_group(element: RunningElement, allowed: dict[str, list[State]]) -> None:
    """Notes in `allowed` which states each file may have: only the acknowledged one, or also none."""
    puts = [
        GroupedPut(str(uuid7()), str(uuid7()), new_file(), os.urandom(BYTES), None, None, "r", {}, late)
        for late in (False, True) * (FILES // 2)
    ]
    allowed |= {put.file_id: [ABSENT, state_of(put.content, 1)] for put in puts}
    try:
        answer = await element.ask(
            "POST", PUT_GROUP_PATH, data=encode_group(puts), headers={"content-type": PUT_GROUP_TYPE}
        )
    except aiohttp.ClientError:
        return
    for put, result in zip(puts, decode_results(answer.body, FILES), strict=True):
        if result.status == 201:
            allowed[put.file_id] = [state_of(put.content, 1)]

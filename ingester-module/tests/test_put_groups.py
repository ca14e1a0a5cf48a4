"""Small files of concurrent uploads in one request to an element: each with the answer of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from app.put_group import FILES_PER_REQUEST, REQUESTS_AT_ONCE, PutGroups
from artstore.contracts.storage import SMALL_FILE_BYTES
from artstore.errors import ArtStoreError, ElementFailed, InternalError, InvalidFields, StorageFull, Unavailable
from artstore.testing.fakes import FakeElement

from .conftest import Answer, Fleet

UPLOAD = "/api/files/upload"
SMALL = 1000


@asynccontextmanager
async def held(fleet: Fleet) -> AsyncIterator[FakeElement]:
    """Both requests that may be open at the element hold one file each, until the block ends."""
    element = fleet.elements[1]
    element.hold = asyncio.Event()
    fleet.context.elements._groups[element.name] = PutGroups(timeout_s=120)
    first: list[asyncio.Task[Answer]] = []
    while len(element.groups) < REQUESTS_AT_ONCE:
        first.append(asyncio.create_task(upload(fleet, b"first")))
        await until(lambda: len(element.groups) == len(first))
    try:
        yield element
    finally:
        element.hold.set()
        assert {(await answer).status for answer in first} == {201}
        del fleet.context.elements._groups[element.name]


async def upload(fleet: Fleet, body: bytes, filename: str = "a") -> Answer:
    return await fleet.ask("POST", UPLOAD, data=body, params={"filename": filename})


async def waiting(fleet: Fleet, *names: str) -> list[asyncio.Task[Answer]]:
    """Uploads that wait for the element, in this order."""
    groups = fleet.context.elements._groups["se-02"]
    tasks = []
    for name in names:
        before = groups._files
        tasks.append(asyncio.create_task(upload(fleet, os.urandom(SMALL), name)))
        await until(partial(_more_than, groups, before))
    return tasks


def _more_than(groups: PutGroups, count: int) -> bool:
    return groups._files > count


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.005)


async def test_files_that_come_while_others_are_sent_share_a_request(fleet: Fleet) -> None:
    async with held(fleet) as element:
        uploads = await waiting(fleet, *(f"{number}" for number in range(FILES_PER_REQUEST + 3)))
    answers = [await one for one in uploads]
    assert {answer.status for answer in answers} == {201}
    assert [len(group) for group in element.groups] == [1, 1, FILES_PER_REQUEST, 3]
    assert len({put.request_id for group in element.groups for put in group}) == FILES_PER_REQUEST + 5
    for answer in answers:
        assert element.files[answer.json["file_id"]][1] == answer.json


async def test_a_refused_file_fails_no_other_of_its_group(fleet: Fleet) -> None:
    async with held(fleet) as element:
        element.refuse_named = {"invalid": InvalidFields("no"), "no room": StorageFull("full")}
        uploads = await waiting(fleet, "good", "invalid", "no room", "good too")
    answers = [await one for one in uploads]
    assert [answer.status for answer in answers] == [201, 422, 201, 201]
    assert [answer.json.get("storage_element_id") for answer in answers] == ["se-02", None, "se-03", "se-02"]
    assert not fleet.context.elements._peer(element.entry()).breaker.refuses


async def test_a_group_that_is_refused_goes_to_the_next_element(fleet: Fleet) -> None:
    async with held(fleet) as element:
        uploads = await waiting(fleet, *"abcdef")
        element.refuse = ElementFailed("the disk failed")
    answers = [await one for one in uploads]
    assert {(answer.status, answer.json["storage_element_id"]) for answer in answers} == {(201, "se-03")}
    assert fleet.context.elements._peer(element.entry()).breaker.refuses, (
        "each of the six files counts as a failed call"
    )


@pytest.mark.parametrize(("error", "opens"), [(InternalError(), True), (StorageFull("full"), False)])
async def test_each_failure_of_the_element_counts_at_its_breaker(
    fleet: Fleet, error: ArtStoreError, opens: bool
) -> None:
    async with held(fleet) as element:
        element.refuse_named = dict.fromkeys("abcde", error)
        uploads = await waiting(fleet, *"abcde")
    assert {(await one).json["storage_element_id"] for one in uploads} == {"se-03"}
    assert fleet.context.elements._peer(element.entry()).breaker.refuses is opens


async def test_files_that_wait_behind_a_stalled_request_fail_with_it(fleet: Fleet) -> None:
    element = fleet.elements[1]
    element.stalled = True
    answers = await asyncio.gather(*(upload(fleet, b"x") for _ in range(10)))
    assert {(answer.status, answer.json["storage_element_id"]) for answer in answers} == {(201, "se-03")}
    assert element.asked <= REQUESTS_AT_ONCE


async def test_a_large_file_is_never_in_a_group(fleet: Fleet) -> None:
    for size, groups in ((SMALL_FILE_BYTES, 1), (SMALL_FILE_BYTES + 1, 1)):
        assert (await upload(fleet, os.urandom(size))).status == 201
        assert len(fleet.elements[1].groups) == groups


async def test_an_upload_whose_begin_fails_while_it_waits_is_not_sent(fleet: Fleet) -> None:
    """An upload that waits for longer than a short transfer begins."""
    async with held(fleet) as element:
        await until(lambda: len(fleet.admin.begun) == REQUESTS_AT_ONCE)
        fleet.admin.fail["/api/sagas/uploads"] = [Unavailable("starting")]
        assert (await upload(fleet, b"x")).status == 503
        [kept] = await waiting(fleet, "kept")
    assert (await kept).status == 201
    assert [[put.new.filename for put in group] for group in element.groups[REQUESTS_AT_ONCE:]] == [["kept"]]
    await fleet.settled(1)

"""Several small files in one request: each is put, or refused, as by a request of its own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from artstore.clock import uuid7
from artstore.contracts.elements import Mode
from artstore.contracts.storage import (
    MAX_PUT_GROUP,
    MAX_PUT_GROUP_BYTES,
    PUT_GROUP_PATH,
    PUT_GROUP_TYPE,
    GroupedPut,
    decode_results,
    encode_group,
)

from ..running import Answer, Neighbours, RunningElement, running_element
from ..store.support import new_file

SMALL = 1000


@pytest.fixture(scope="module")
async def element(neighbours: Neighbours, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningElement]:
    async with running_element(neighbours, tmp_path_factory.mktemp("elements") / "se-01") as element:
        yield element


@pytest.fixture(params=[False, True], ids=["noted", "late"])
def late(request: pytest.FixtureRequest) -> bool:
    """Files whose rows may come late are put together, others each alone."""
    return bool(request.param)


def grouped(content: bytes, late: bool = False, **fields: Any) -> GroupedPut:
    known = {"file_id": str(uuid7()), "saga_id": str(uuid7()), "new": new_file(), "request_id": "r-1", "trace": {}}
    known["settle_late"] = late
    return GroupedPut(content=content, **{**known, "sha256": None, "md5": None, **fields})


async def send(element: RunningElement, puts: Sequence[GroupedPut]) -> Answer:
    return await send_bytes(element, encode_group(puts))


async def send_bytes(element: RunningElement, body: bytes) -> Answer:
    return await element.ask("POST", PUT_GROUP_PATH, data=body, headers={"content-type": PUT_GROUP_TYPE})


async def put_all(element: RunningElement, *puts: GroupedPut) -> list[tuple[int, Any]]:
    answer = await send(element, puts)
    assert answer.status == 200, answer.body
    return [(one.status, msgspec.json.decode(one.body)) for one in decode_results(answer.body, len(puts))]


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 300_000])
async def test_each_file_of_a_group_is_read_as_it_was_put(element: RunningElement, size: int, late: bool) -> None:
    puts = [grouped(os.urandom(size), late) for _ in range(3)]
    for put, (status, record) in zip(puts, await put_all(element, *puts), strict=True):
        assert (status, record["file_id"], record["size_bytes"]) == (201, put.file_id, size)
        path = f"/api/files/{put.file_id}"
        assert (await element.ask("GET", path)).json == record
        assert (await element.ask("GET", f"{path}/content")).body == put.content


async def test_the_refused_files_of_a_group_fail_no_other(element: RunningElement, late: bool) -> None:
    [(_, taken)] = await put_all(element, grouped(b"taken", late))
    before = await operations(element)
    puts = [
        grouped(b"good", late, sha256=hashlib.sha256(b"good").digest()),
        grouped(b"bad", late, sha256=bytes(32), request_id="r-2"),
        grouped(b"bad", late, md5=bytes(16)),
        grouped(b"bad", late, new=new_file("a/b")),
        grouped(b"bad", late, file_id="../x"),
        grouped(b"bad", late, saga_id="x"),
        grouped(b"bad", late, new=msgspec.structs.replace(new_file(), metadata={"a": "x" * 5000})),
        grouped(b"bad", late, file_id=taken["file_id"]),
        grouped(b"good too", late),
    ]
    results = await put_all(element, *puts)
    assert [status for status, _ in results] == [201, 400, 400, 422, 400, 400, 422, 409, 201]
    assert (results[1][1]["code"], results[1][1]["request_id"]) == ("digest_mismatch", "r-2")
    for put in puts[1:4]:
        assert (await element.ask("GET", f"/api/files/{put.file_id}")).status == 404
    after = await operations(element)
    assert {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name)} == {
        "ok": 2,
        "digest_mismatch": 2,
        "invalid_fields": 2,
        "malformed": 2,
        "conflict": 1,
    }


async def operations(element: RunningElement) -> dict[str, float]:
    lines = (await element.ask("GET", "/metrics")).body.decode().splitlines()
    prefix = 'file_operations_total{operation="put",result="'
    counted = (line.removeprefix(prefix).partition('"} ') for line in lines if line.startswith(prefix))
    return {result: float(value) for result, _, value in counted}


async def test_the_same_saga_may_repeat_its_put_in_one_group_or_another(element: RunningElement, late: bool) -> None:
    put = grouped(b"once", late)
    first = await put_all(element, put, put)
    again = await put_all(element, put, msgspec.structs.replace(put, saga_id=str(uuid7())))
    assert sorted(status for status, _ in first) == [200, 201]
    assert [status for status, _ in again] == [200, 409]
    assert first[0][1] == first[1][1] == again[0][1]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (encode_group([grouped(b"") for _ in range(MAX_PUT_GROUP + 1)]), 400, "malformed"),
        (encode_group([]), 400, "malformed"),
        (b"\xc1", 400, "malformed"),
        (b"", 400, "malformed"),
        (encode_group([grouped(bytes(MAX_PUT_GROUP_BYTES))]), 413, "too_large"),
    ],
    ids=["too many", "none", "not msgpack", "empty", "too large"],
)
async def test_a_group_beyond_its_limits_is_refused_whole(
    element: RunningElement, body: bytes, status: int, code: str
) -> None:
    answer = await send_bytes(element, body)
    assert (answer.status, answer.json["code"]) == (status, code)


async def test_a_group_of_the_largest_files_is_taken(element: RunningElement) -> None:
    results = await put_all(element, *(grouped(os.urandom(65_536)) for _ in range(32)))
    assert {status for status, _ in results} == {201}


async def test_a_mode_that_forbids_puts_answers_the_whole_group(
    own_neighbours: Neighbours, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("elements") / "se-01"
    async with running_element(own_neighbours, root, STORAGE_MODE=Mode.RO) as element:
        answer = await send(element, [grouped(b"x"), grouped(b"y")])
        assert (answer.status, answer.json["code"]) == (409, "mode_forbids")
        assert (await operations(element))["mode_forbids"] == 2

"""Uploads under an Idempotency-Key with fake neighbours. Kills are tested on the whole system (tests/faults)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
from typing import Any

import aiohttp
import pytest

from app.idempotency.store import Scope
from artstore.clock import uuid7
from artstore.errors import ArtStoreError, ElementFailed, InvalidFields, StorageFull, Unavailable

from ..conftest import Answer, Fleet

UPLOAD = "/api/files/upload"
OWNER = "tester"


def new_key() -> str:
    return str(uuid7())


async def send(fleet: Fleet, key: str, body: Any = b"content", **options: Any) -> Answer:
    headers = {"idempotency-key": key, **options.pop("headers", {})}
    return await fleet.ask("POST", UPLOAD, data=body, headers=headers, **{"params": {"filename": "a"}, **options})


def files(fleet: Fleet) -> int:
    return sum(len(element.files) for element in fleet.elements)


async def counted(fleet: Fleet) -> dict[str, float]:
    text = (await fleet.ask("GET", "/metrics")).body.decode()
    return {
        name: float(number) for name, number in re.findall(r'idempotency_requests_total\{result="(\w+)"\} (\S+)', text)
    }


@pytest.mark.parametrize("size", [0, 1000, 3 * 2**20])
@pytest.mark.parametrize("how", ["raw", "form"])
async def test_a_repeat_gets_the_first_answer_and_stores_nothing(fleet: Fleet, size: int, how: str) -> None:
    body, key = os.urandom(size), new_key()

    def data() -> Any:
        """A form has a new boundary for each request."""
        if how == "raw":
            return body
        form = aiohttp.FormData()
        form.add_field("file", body, filename="a")
        return form

    before = await counted(fleet)
    params = {"filename": "a"} if how == "raw" else {}
    first = await send(fleet, key, data(), params=params)
    assert (first.status, "idempotent-replayed" in first.headers) == (201, False)
    for _ in range(2):
        again = await send(fleet, key, data(), params=params)
        assert (again.status, again.json, again.headers["idempotent-replayed"]) == (201, first.json, "true")
        for name in ("location", "etag", "content-type"):
            assert again.headers[name] == first.headers[name]
    assert files(fleet) == len(fleet.admin.committed) == 1
    after = await counted(fleet)
    assert (after["first"] - before["first"], after["replayed"] - before["replayed"]) == (1, 2)


@pytest.mark.parametrize(
    "changed",
    [
        {"body": b"CONTENT"},
        {"body": b"content+"},
        {"body": b""},
        {"params": {"filename": "b"}},
        {"params": {"filename": "a", "tags": '["x"]'}},
        {"headers": {"content-type": "a/b"}},
    ],
    ids=str,
)
async def test_a_different_request_under_the_key_is_refused(fleet: Fleet, changed: dict[str, Any]) -> None:
    key = new_key()
    await send(fleet, key)
    other = await send(fleet, key, **changed)
    assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")
    assert files(fleet) == 1


async def test_a_wrong_digest_of_a_replayed_body_is_refused(fleet: Fleet) -> None:
    key = new_key()
    await send(fleet, key)
    right = base64.b64encode(hashlib.sha256(b"content").digest()).decode()
    wrong = base64.b64encode(hashlib.sha256(b"x").digest()).decode()
    md5 = base64.b64encode(hashlib.md5(b"x").digest()).decode()
    assert (await send(fleet, key, headers={"repr-digest": f"sha-256=:{right}:"})).status == 201
    for header in ({"repr-digest": f"sha-256=:{wrong}:"}, {"content-md5": md5}):
        assert (await send(fleet, key, headers=header)).json["code"] == "digest_mismatch"


async def test_a_repeat_is_409_while_the_first_request_runs(fleet: Fleet) -> None:
    key = new_key()
    fleet.elements[1].stalled = fleet.elements[2].stalled = True
    running = asyncio.create_task(send(fleet, key))
    while not (fleet.elements[1].asked + fleet.elements[2].asked):
        await asyncio.sleep(0.005)
    refused = await send(fleet, key)
    assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (
        409,
        "idempotency_key_in_use",
        "1",
    )
    assert (await send(fleet, key, params={"filename": "b"})).status == 422
    assert (await running).status == 503
    fleet.elements[1].stalled = fleet.elements[2].stalled = False


@pytest.mark.parametrize("error", [Unavailable("x"), ElementFailed("x"), StorageFull("x"), InvalidFields("x")])
async def test_a_failure_is_not_stored(fleet: Fleet, error: ArtStoreError) -> None:
    key = new_key()
    for element in fleet.elements:
        element.refuse = error
    assert (await send(fleet, key)).status == error.status
    for element in fleet.elements:
        element.refuse = None
    for breaker in fleet.elements:
        fleet.context.elements._peer(breaker.entry()).breaker.heal()
    first = await send(fleet, key, b"other bytes", params={"filename": "b"})
    assert (first.status, "idempotent-replayed" in first.headers) == (201, False)
    assert files(fleet) == 1


async def test_the_next_element_gets_the_ids_of_the_row(fleet: Fleet) -> None:
    key = new_key()
    fleet.elements[1].refuse = ElementFailed("disk")
    first = await send(fleet, key)
    assert first.json["storage_element_id"] == "se-03"
    [committed] = fleet.admin.committed
    stored = await fleet.context.keys.store.find(Scope(OWNER, key))
    assert stored is not None
    assert (stored.saga_id, stored.file_id) == (committed.saga_id, first.json["file_id"])
    await fleet.settled(1)
    [abandoned] = fleet.admin.aborted
    assert abandoned.saga_id != committed.saga_id
    assert abandoned.file_id != first.json["file_id"]


async def test_a_commit_without_an_answer_leaves_the_key_to_the_next_request(fleet: Fleet) -> None:
    """Either it came first and its answer is stored, or the key is free and a late commit is refused."""
    key = new_key()
    fleet.admin.fail["/api/sagas/commit"] = [Unavailable("x") for _ in range(4)]
    assert (await send(fleet, key)).status == 503
    assert await fleet.context.keys.store.find(Scope(OWNER, key)) is None
    assert (await send(fleet, key)).status == 201
    assert len(fleet.admin.committed) == 1


async def test_every_key_decision_is_counted(fleet: Fleet) -> None:
    key, store = new_key(), fleet.context.keys.store
    dead = Scope(OWNER, new_key())
    before = await counted(fleet)
    assert set(before) == {"first", "replayed", "running", "mismatch", "taken_over"}
    await send(fleet, key)
    await send(fleet, key)
    await send(fleet, key, params={"filename": "b"})
    await store.claim(dead, "of another request", saga_id := str(uuid7()), str(uuid7()))
    assert (await send(fleet, dead.key)).status == 422
    await store.release(dead, saga_id)
    stored = await store.find(Scope(OWNER, key))
    assert stored is not None
    await store.claim(dead, stored.fingerprint, saga_id := str(uuid7()), str(uuid7()))
    assert (await send(fleet, dead.key)).status == 409
    await store.end_lease(dead, saga_id)
    assert (await send(fleet, dead.key)).status == 201
    after = await counted(fleet)
    counts = {name: after[name] - before[name] for name in after}
    assert counts == {"first": 1, "replayed": 1, "running": 1, "mismatch": 2, "taken_over": 1}


async def test_a_request_that_lost_its_key_while_running_is_refused(fleet: Fleet) -> None:
    """Like an ingester that was paused: the key belongs to a different attempt when it commits."""
    key, store = new_key(), fleet.context.keys.store
    scope = Scope(OWNER, key)

    async def slowly() -> Any:
        yield bytes(2**20)
        while (stored := await store.find(scope)) is None:
            await asyncio.sleep(0.01)
        await store.end_lease(scope, stored.saga_id)
        assert await store.take_over(scope, stored.saga_id, str(uuid7()), str(uuid7()))
        yield b"end"

    late = await send(fleet, key, slowly())
    assert (late.status, late.json["code"]) == (503, "unavailable")
    assert not fleet.admin.committed
    await fleet.settled(1)
    stored = await store.find(scope)
    assert stored is not None
    assert stored.answer is None


@pytest.mark.parametrize("key", ["", " ", "a b", "ж", "x" * 256, "a\tb"])
async def test_an_invalid_key_is_refused_before_the_body(fleet: Fleet, key: str) -> None:
    refused = await send(fleet, key)
    assert (refused.status, refused.json["code"], refused.json["fields"]) == (
        422,
        "invalid_fields",
        ["idempotency-key"],
    )
    assert files(fleet) == 0


async def test_two_keys_in_one_request_are_refused(fleet: Fleet) -> None:
    headers = [("idempotency-key", "a"), ("idempotency-key", "b")]
    assert (await fleet.ask("POST", UPLOAD, data=b"x", headers=headers)).status == 400
    assert files(fleet) == 0


async def test_the_longest_key_and_every_visible_character_are_accepted(fleet: Fleet) -> None:
    for key in ("x" * 255, "".join(chr(code) for code in range(0x21, 0x7F))):
        assert (await send(fleet, key + "")).status == 201
    assert files(fleet) == 2

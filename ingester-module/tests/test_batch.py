"""Batches: many files in one request, each with a result of its own, and none of them unless the whole body arrived."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from artstore.contracts.sagas import MAX_BATCH_FILES
from artstore.contracts.storage import MAX_PUT_GROUP, SMALL_FILE_BYTES
from artstore.errors import Conflict, ElementFailed, InvalidFields, StorageFull, Unavailable
from artstore.peers.faults import PeerFault

from .conftest import Answer, Fleet

BATCH = "/api/files/batch"
LARGE = SMALL_FILE_BYTES + 200_000
TYPE = {"content-type": "multipart/form-data; boundary=XX"}
END = b"--XX--\r\n"


def part(name: str, content: bytes, *headers: str, filename: str | None = None) -> bytes:
    named = f'; filename="{filename}"' if filename is not None else ""
    head = [f'Content-Disposition: form-data; name="{name}"{named}', *headers]
    return b"--XX\r\n" + "\r\n".join(head).encode() + b"\r\n\r\n" + content + b"\r\n"


def file(content: bytes, name: str | None = "a.bin", *headers: str, **attributes: Any) -> bytes:
    described = part("attributes", json.dumps(attributes).encode()) if attributes else b""
    return described + part("file", content, *headers, filename=name)


async def send(fleet: Fleet, *parts: bytes, **headers: str) -> Answer:
    return await fleet.ask("POST", BATCH, data=b"".join(parts) + END, headers={**TYPE, **headers})


def statuses(answer: Answer) -> list[int]:
    assert answer.status == 200, answer.body
    results = answer.json["results"]
    assert [result["index"] for result in results] == list(range(len(results)))
    return [result["status"] for result in results]


def contents(fleet: Fleet) -> dict[str, bytes]:
    """By file id, of all elements."""
    return {file_id: kept[0] for element in fleet.elements for file_id, kept in element.files.items()}


async def test_each_file_is_stored_and_answered_in_order(fleet: Fleet) -> None:
    bodies = [os.urandom(size) for size in (0, 10, LARGE, 5, SMALL_FILE_BYTES, SMALL_FILE_BYTES + 1)]
    sent = [file(body, f"Акт {number}.bin", tags=[f"{number}"]) for number, body in enumerate(bodies)]
    answer = await send(fleet, *sent)
    assert statuses(answer) == [201] * len(bodies)
    records = [result["file"] for result in answer.json["results"]]
    assert [record["filename"] for record in records] == [f"Акт {number}.bin" for number in range(len(bodies))]
    assert [record["tags"] for record in records] == [[f"{number}"] for number in range(len(bodies))]
    kept = contents(fleet)
    assert [kept[record["file_id"]] for record in records] == bodies
    [batch] = fleet.admin.batches
    assert [orjson.loads(bytes(saga.attributes)) for saga in batch.sagas] == records
    assert batch.key is None
    assert not fleet.admin.aborted


async def test_a_full_batch_shares_requests_to_the_element_and_one_commit(fleet: Fleet) -> None:
    answer = await send(fleet, *(file(b"%d" % number) for number in range(MAX_BATCH_FILES)))
    assert statuses(answer) == [201] * MAX_BATCH_FILES
    kept = contents(fleet)
    assert [kept[result["file"]["file_id"]] for result in answer.json["results"]] == [
        b"%d" % number for number in range(MAX_BATCH_FILES)
    ]
    groups = [len(group) for group in fleet.elements[1].groups]
    assert groups == [MAX_PUT_GROUP] * (MAX_BATCH_FILES // MAX_PUT_GROUP) + [MAX_BATCH_FILES % MAX_PUT_GROUP]
    assert len(fleet.admin.batches) == 1


async def test_attributes_describe_the_file_after_them_only(fleet: Fleet) -> None:
    described = {
        "filename": "б.pdf",
        "tags": ["x"],
        "metadata": {"a": {"b": 1}},
        "retention": "temporary",
        "ttl_days": 2,
    }
    answer = await send(
        fleet, file(b"1", "a.bin", **described), file(b"2", None), file(b"3", "c.bin", retention="permanent")
    )
    assert statuses(answer) == [201, 201, 201]
    first, second, third = (result["file"] for result in answer.json["results"])
    assert {name: first[name] for name in ("filename", "tags", "metadata", "retention")} == {
        name: described[name] for name in ("filename", "tags", "metadata", "retention")
    }
    assert (first["storage_element_id"], first["expires_at"] is None) == ("se-01", False)
    assert (second["filename"], second["tags"], second["retention"]) == (second["file_id"], [], "permanent")
    assert (third["filename"], third["storage_element_id"]) == ("c.bin", "se-02")


GOOD = file(b"good", "good.bin")
SHA = base64.b64encode(hashlib.sha256(b"x").digest()).decode()
SHA512 = base64.b64encode(hashlib.sha512(b"x").digest()).decode()
FAULTS = {
    "unknown attribute": (file(b"x", owner="me"), 422),
    "attributes that are no JSON": (part("attributes", b"{") + file(b"x"), 422),
    "an attribute twice": (part("attributes", b'{"tags": [], "tags": ["a"]}') + file(b"x"), 422),
    "attributes that are not UTF-8": (part("attributes", b'{"metadata": {"a": "\xff"}}') + file(b"x"), 422),
    "attributes that are too large": (part("attributes", b" " * 20_000) + file(b"x"), 422),
    "a path as the name": (file(b"x", "../a"), 422),
    "ttl of a permanent file": (file(b"x", ttl_days=3), 422),
    "a tag that is no text": (file(b"x", tags=[1]), 422),
    "a content type that is none": (file(b"x", "a", "Content-Type: image"), 422),
    "a name that is not UTF-8": (file(b"x", "a").replace(b'"a"', b'"\xff"'), 400),
    "an encoded part": (file(b"eA==", "a", "Content-Transfer-Encoding: base64"), 415),
    "a large encoded part": (file(b"x" * LARGE, "a", "Content-Encoding: gzip"), 415),
    "a range": (file(b"x", "a", "Content-Range: bytes 0-0/2"), 400),
    "a digest of other bytes": (file(b"y", "a", f"Content-Digest: sha-256=:{SHA}:"), 400),
    "a digest of other bytes, checked here": (file(b"y", "a", f"Content-Digest: sha-512=:{SHA512}:"), 400),
    "a digest of a large file": (file(b"y" * LARGE, "a", f"Content-Digest: sha-512=:{SHA512}:"), 400),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_bad_file_does_not_spoil_the_others(fleet: Fleet, fault: str) -> None:
    bad, status = FAULTS[fault]
    large = file(b"z" * LARGE, "good.bin")
    answer = await send(fleet, GOOD, bad, GOOD, bad, large)
    assert statuses(answer) == [201, status, 201, status, 201]
    refused = answer.json["results"][1]
    assert set(refused) == {"index", "status", "problem"}
    assert (refused["problem"]["status"], refused["problem"]["request_id"]) == (status, answer.headers["x-request-id"])
    assert sorted(map(len, contents(fleet).values())) == [4, 4, LARGE]
    assert len(fleet.admin.committed) == 3


async def test_a_digest_that_matches_is_accepted(fleet: Fleet) -> None:
    headers = f"Content-Digest: sha-256=:{SHA}:, sha-512=:{SHA512}:", "Content-Length: 1"
    assert statuses(await send(fleet, file(b"x", "a", *headers))) == [201]


MALFORMED = {
    "no parts": (END, 400),
    "no form": (b"hello", 400),
    "a cut form": (GOOD + GOOD[:-10], 400),
    "a form without its end": (GOOD + GOOD, 400),
    "an unknown part": (GOOD + part("tags", b"[]") + GOOD + END, 400),
    "attributes twice": (part("attributes", b"{}") + part("attributes", b"{}") + GOOD + END, 400),
    "attributes at the end": (GOOD + part("attributes", b"{}") + END, 400),
    "a part of a different length": (GOOD + file(b"abc", "a", "Content-Length: 4") + END, 400),
    "a part without disposition": (GOOD + b"--XX\r\nA: b\r\n\r\nx\r\n" + END, 400),
    "a large file, then no end": (GOOD + file(b"x" * LARGE)[:-3], 400),
    "too many headers": (GOOD + file(b"x", "a", *(f"X-{number}: 1" for number in range(9))) + END, 431),
    "too many files": (file(b"x") * (MAX_BATCH_FILES + 1) + END, 422),
    "more than the limit": (file(b"x" * (8 * 2**20 - 10)) + END, 413),
}


@pytest.mark.parametrize("how", MALFORMED)
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_cannot_be_read_stores_nothing(fleet: Fleet, how: str, chunked: bool) -> None:
    body, status = MALFORMED[how]
    answer = await fleet.ask("POST", BATCH, data=pieces(body) if chunked else body, headers=TYPE)
    assert answer.status == status, answer.body
    assert not fleet.admin.committed
    await fleet.settled(len(contents(fleet)))
    assert {saga.file_id for saga in fleet.admin.aborted} >= contents(fleet).keys()


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 1 << 16):
        yield body[at : at + (1 << 16)]


@pytest.mark.parametrize(
    ("headers", "status"), [({"content-type": "multipart/form-data"}, 400), ({"content-type": "text/plain"}, 415)]
)
async def test_a_request_without_a_form_is_refused(fleet: Fleet, headers: dict[str, str], status: int) -> None:
    assert (await fleet.ask("POST", BATCH, data=GOOD + END, headers=headers)).status == status
    assert (await fleet.ask("POST", BATCH + "?tags=[]", data=GOOD + END, headers=TYPE)).status == 422


@pytest.mark.parametrize("large", [False, True])
async def test_a_connection_that_breaks_leaves_nothing(fleet: Fleet, large: bool) -> None:
    body = GOOD * MAX_PUT_GROUP + (file(os.urandom(2 * 2**20)) if large else GOOD)
    address = urlsplit(fleet.url)
    token = fleet.session.headers["authorization"]
    head = f"POST {BATCH} HTTP/1.1\r\nhost: a\r\nauthorization: {token}\r\ncontent-type: {TYPE['content-type']}\r\n"
    with socket.create_connection((address.hostname, address.port)) as client:
        client.setblocking(False)
        sent = f"{head}content-length: {len(body) + 5000}\r\n\r\n".encode() + body
        await asyncio.get_running_loop().sock_sendall(client, sent)
        async with asyncio.timeout(60):
            while len(contents(fleet)) < MAX_PUT_GROUP:
                await asyncio.sleep(0.005)
    await fleet.settled(MAX_PUT_GROUP)
    assert not fleet.admin.committed
    assert {saga.file_id for saga in fleet.admin.aborted} >= contents(fleet).keys()


async def test_a_file_that_an_element_does_not_take_goes_to_the_next(fleet: Fleet) -> None:
    fleet.elements[1].refuse_named = {"full": StorageFull("full"), "no": InvalidFields("no")}
    answer = await send(fleet, GOOD, file(b"1", "full"), file(b"2", "no"), GOOD)
    assert statuses(answer) == [201, 201, 422, 201]
    assert [result.get("file", {}).get("storage_element_id") for result in answer.json["results"]] == [
        "se-02", "se-03", None, "se-02",
    ]  # fmt: skip
    assert len(fleet.admin.committed) == 3
    await fleet.settled(2)


async def test_an_element_that_fails_is_replaced(fleet: Fleet) -> None:
    fleet.elements[1].refuse = ElementFailed("the disk failed")
    answer = await send(fleet, GOOD, file(os.urandom(LARGE)), GOOD)
    assert statuses(answer) == [201] * 3
    assert {result["file"]["storage_element_id"] for result in answer.json["results"]} == {"se-03"}


async def test_an_element_that_fails_in_a_large_file_fails_this_file_only(fleet: Fleet) -> None:
    fleet.elements[1].fail_after, fleet.elements[1].fail_with = 100_000, ElementFailed("the disk failed")
    after = file(b"after", "after.bin")
    answer = await send(fleet, file(os.urandom(4 * 2**20)), after, file(os.urandom(2 * 2**20)), after)
    assert statuses(answer)[0] == 503
    assert statuses(answer)[2] == 503
    kept = contents(fleet)
    stored = [result["file"] for result in answer.json["results"] if result["status"] == 201]
    assert all(kept[record["file_id"]] == b"after" for record in stored)


async def test_a_batch_that_no_element_takes_is_answered_as_a_single_upload(fleet: Fleet) -> None:
    for element in fleet.elements:
        element.refuse = ElementFailed("the disk failed")
    answer = await send(fleet, GOOD, file(os.urandom(LARGE)))
    assert (answer.status, "retry-after" in answer.headers) == (503, True)


async def test_an_admin_that_is_away_fails_the_batch_at_once(fleet: Fleet) -> None:
    breaker = fleet.context.sagas._admin.breaker
    while breaker.closed:
        breaker.count(PeerFault(Unavailable("away")))
    answer = await send(fleet, *[GOOD] * 3)
    assert answer.status == 503
    assert not contents(fleet)


async def test_a_commit_that_is_refused_fails_the_whole_batch(fleet: Fleet) -> None:
    fleet.admin.refuse_commit = Conflict("compensating")
    answer = await send(fleet, GOOD, file(os.urandom(LARGE)))
    assert answer.status == 503
    await fleet.settled(2)


async def test_files_that_the_catalog_refuses_do_not_spoil_the_others(fleet: Fleet) -> None:
    answer = await send(
        fleet, GOOD, file(b"x", metadata={"refused": 1}), GOOD, **{"idempotency-key": os.urandom(8).hex()}
    )
    assert statuses(answer) == [201, 422, 201]
    assert len(fleet.admin.committed) == 2
    await fleet.settled(1)
    assert statuses(await send(fleet, file(b"x", metadata={"refused": 1}))) == [422]


async def test_a_commit_without_an_answer_is_repeated(fleet: Fleet) -> None:
    fleet.admin.fail["/api/sagas/commit-batch"] = [Unavailable("starting"), Unavailable("starting")]
    assert statuses(await send(fleet, GOOD, GOOD)) == [201, 201]


async def test_sagas_begin_when_the_body_takes_long(fleet: Fleet) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield GOOD * MAX_PUT_GROUP
        while len(fleet.admin.begun) < MAX_PUT_GROUP:
            yield b"--XX\r\n" + GOOD[6:]
            await asyncio.sleep(0.2)
        yield END

    async with asyncio.timeout(60):
        answer = await fleet.ask("POST", BATCH, data=slowly(), headers=TYPE)
    assert set(statuses(answer)) == {201}
    assert {saga.file_id for saga in fleet.admin.begun} <= contents(fleet).keys()


async def test_files_are_counted_by_their_results(fleet: Fleet) -> None:
    operations = fleet.context.files.operations
    before = [operations.labels("put", code)._value.get() for code in ("ok", "invalid_fields", "malformed")]
    await send(fleet, GOOD, file(b"x", owner="me"), GOOD)
    await fleet.ask("POST", BATCH, data=GOOD + b"--XX\r\n", headers=TYPE)
    after = [operations.labels("put", code)._value.get() for code in ("ok", "invalid_fields", "malformed")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [2, 1, 0]


KEYED = [file(b"one", "1", tags=["a"]), file(b"y" * LARGE, None), file(b"x", owner="me")]


async def test_a_repeat_under_a_key_gets_the_first_answer(fleet: Fleet) -> None:
    key = {"idempotency-key": os.urandom(8).hex()}
    first = await send(fleet, *KEYED, **key)
    assert statuses(first) == [201, 201, 422]
    again = await fleet.ask("POST", BATCH, data=pieces(b"".join(KEYED) + END), headers={**TYPE, **key})
    assert (again.status, again.body) == (200, first.body)
    assert again.headers["idempotent-replayed"] == "true"
    assert len(contents(fleet)) == 2


DIFFERENT = {
    "bytes": [file(b"two", "1", tags=["a"]), *KEYED[1:]],
    "bytes of a large file": [KEYED[0], file(b"z" * LARGE, None), KEYED[2]],
    "name": [file(b"one", "2", tags=["a"]), *KEYED[1:]],
    "tags": [file(b"one", "1"), *KEYED[1:]],
    "fewer files": KEYED[:2],
    "more files": [*KEYED, GOOD],
    "a bad file": [file(b"one", "1", owner="me"), *KEYED[1:]],
}


async def test_a_different_batch_under_the_key_is_refused(fleet: Fleet) -> None:
    key = {"idempotency-key": os.urandom(8).hex()}
    assert statuses(await send(fleet, *KEYED, **key)) == [201, 201, 422]
    for how, parts in DIFFERENT.items():
        answer = await send(fleet, *parts, **key)
        assert (answer.status, answer.json["code"]) == (422, "idempotency_key_reused"), how
    assert (await fleet.ask("POST", "/api/files/upload", data=b"x", headers=key)).status == 422


@pytest.mark.parametrize("parts", [[GOOD, GOOD[:-4]], [file(b"x", owner="me")]])
async def test_a_batch_that_stored_nothing_frees_its_key(fleet: Fleet, parts: list[bytes]) -> None:
    key = {"idempotency-key": os.urandom(8).hex()}
    await send(fleet, *parts, **key)
    assert statuses(await send(fleet, GOOD, **key)) == [201]

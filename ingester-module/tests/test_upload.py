"""Uploads from the client's socket to the element's and back."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson
import pytest

from app.uploads.body import BUFFER_BYTES
from artstore.contracts.tokens import Role
from artstore.errors import (
    ArtStoreError,
    Conflict,
    ElementFailed,
    Forbidden,
    InvalidFields,
    ModeForbids,
    RateLimited,
    StorageFull,
    Unauthenticated,
    Unavailable,
)
from artstore.peers.faults import PeerFault
from artstore.testing.fakes import FakeElement

from .conftest import Fleet

UPLOAD = "/api/files/upload"
SMALL, LARGE = 1000, 3 * 2**20
SIZES = [0, 1, 65_535, 65_536, 65_537, 2**20 + 1, LARGE]


def stored(fleet: Fleet) -> dict[str, list[str]]:
    return {element.name: list(element.files) for element in fleet.elements if element.files}


async def slowly(body: bytes, pause_s: float = 0.01) -> AsyncIterator[bytes]:
    """A slow chunked body."""
    for at in range(0, len(body), 2**18):
        yield body[at : at + 2**18]
        await asyncio.sleep(pause_s)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("how", ["raw", "chunked", "form"])
async def test_a_file_is_acknowledged_once_it_is_stored_and_committed(fleet: Fleet, size: int, how: str) -> None:
    body = os.urandom(size)
    data: Any = body if how == "raw" else slowly(body, 0) if how == "chunked" else aiohttp.FormData()
    query = {"filename": "Договор №5.pdf", "tags": '["a"]'}
    if how == "form":
        data.add_field("tags", '["a"]')
        data.add_field("file", body, filename="Договор №5.pdf", content_type="application/pdf")
        query = {}
    headers = {} if how == "form" else {"content-type": "application/pdf"}
    answer = await fleet.ask("POST", UPLOAD, data=data, params=query, headers=headers)
    assert answer.status == 201, answer.body
    record = answer.json
    assert answer.headers["location"] == f"/api/files/{record['file_id']}"
    assert (record["filename"], record["content_type"], record["tags"]) == ("Договор №5.pdf", "application/pdf", ["a"])
    assert (record["size_bytes"], record["owner"], record["storage_element_id"]) == (size, "tester", "se-02")
    assert fleet.elements[1].files[record["file_id"]][0] == body
    [committed] = fleet.admin.committed
    assert orjson.loads(bytes(committed.attributes)) == record
    begun = [(one.saga_id, one.file_id, one.storage_element_id, one.owner) for one in fleet.admin.begun]
    large = (committed.saga_id, record["file_id"], "se-02", "tester")
    assert begun == ([large] if size > BUFFER_BYTES else []), "a short transfer is begun by its commit"
    assert not fleet.admin.aborted


async def test_a_temporary_file_goes_to_the_edit_element_and_expires(fleet: Fleet) -> None:
    answer = await fleet.ask("POST", UPLOAD, data=b"x", params={"retention": "temporary", "ttl_days": "2"})
    assert (answer.status, answer.json["storage_element_id"]) == (201, "se-01")
    assert answer.json["expires_at"] is not None


async def test_a_raw_body_without_a_name_is_named_by_its_id(fleet: Fleet) -> None:
    answer = await fleet.ask("POST", UPLOAD, data=b"x", headers={"content-type": "a/b"})
    assert answer.json["filename"] == answer.json["file_id"]


async def test_concurrent_uploads_share_requests_to_admin(fleet: Fleet) -> None:
    bodies = [os.urandom(SMALL) for _ in range(40)]
    answers = await asyncio.gather(*(fleet.ask("POST", UPLOAD, data=body) for body in bodies))
    assert {answer.status for answer in answers} == {201}
    kept = {content for content, _ in fleet.elements[1].files.values()}
    assert kept == set(bodies)
    assert len(fleet.admin.committed) == 40
    assert fleet.admin.requests < 80


REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("path in the name", {"params": {"filename": "../x"}, "data": b"x"}, 422, "invalid_fields"),
    ("name of 256 bytes", {"params": {"filename": "я" * 128}, "data": b"x"}, 422, "invalid_fields"),
    ("tags no JSON", {"params": {"tags": "[a]"}, "data": b"x"}, 422, "invalid_fields"),
    ("unknown parameter", {"params": {"tag": "a"}, "data": b"x"}, 422, "invalid_fields"),
    ("content type", {"headers": {"content-type": "nothing"}, "data": b"x"}, 422, "invalid_fields"),
    ("large and bad", {"params": {"retention": "x"}, "data": bytes(LARGE)}, 422, "invalid_fields"),
    ("too large", {"data": bytes(9 * 2**20)}, 413, "too_large"),
    ("digest unreadable", {"headers": {"content-digest": "sha-256=x"}, "data": b"x"}, 400, "malformed"),
    ("form without a boundary", {"headers": {"content-type": "multipart/form-data"}, "data": b"x"}, 400, "malformed"),
]


@pytest.mark.parametrize(("request_", "status", "code"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_an_invalid_request_is_refused_before_any_call(
    fleet: Fleet, request_: dict[str, Any], status: int, code: str
) -> None:
    answer = await fleet.ask("POST", UPLOAD, **request_)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert (fleet.admin.requests, stored(fleet)) == (0, {})


async def test_a_caller_without_permission_is_refused_before_the_body(fleet: Fleet) -> None:
    for token, status in ((fleet.admin.signer.token(Role.READONLY), 403), ("none", 401)):
        answer = await fleet.ask("POST", UPLOAD, data=b"x", headers={"authorization": f"Bearer {token}"})
        assert answer.status == status
    assert fleet.admin.requests == 0


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("how", ["raw", "part", "form"])
async def test_a_wrong_digest_stores_nothing(fleet: Fleet, size: int, how: str) -> None:
    body = os.urandom(size)
    wrong = {"repr-digest": f"sha-256=:{base64.b64encode(hashlib.sha256(b'other').digest()).decode()}:"}
    if how == "raw":
        answer = await fleet.ask("POST", UPLOAD, data=body, headers=wrong)
    else:
        head = 'Content-Disposition: form-data; name="file"; filename="a"\r\n'
        if how == "part":
            head += f"Repr-Digest: {wrong['repr-digest']}\r\n"
        sent = f"--b\r\n{head}\r\n".encode() + body + b"\r\n--b--\r\n"
        headers = {"content-type": "multipart/form-data; boundary=b", **(wrong if how == "form" else {})}
        answer = await fleet.ask("POST", UPLOAD, data=sent, headers=headers)
    assert (answer.status, answer.json["code"]) == (400, "digest_mismatch")
    assert (stored(fleet), fleet.admin.committed) == ({}, [])
    await fleet.settled(len(fleet.admin.begun))


async def test_elements_that_were_just_closed_are_answered_503(fleet: Fleet) -> None:
    for element in fleet.elements:
        element.refuse = ModeForbids("an element in mode ro does not create")
    answer = await fleet.ask("POST", UPLOAD, data=b"x")
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert "retry-after" in answer.headers
    await fleet.settled(2)


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize(
    "error", [Unavailable(), ElementFailed(), StorageFull(), ModeForbids()], ids=lambda error: error.code
)
async def test_the_next_element_is_tried_when_one_refuses_before_the_body(
    fleet: Fleet, size: int, error: ArtStoreError
) -> None:
    body = os.urandom(size)
    fleet.elements[1].refuse = error
    answer = await fleet.ask("POST", UPLOAD, data=body)
    assert (answer.status, answer.json["storage_element_id"]) == (201, "se-03")
    assert fleet.elements[2].files[answer.json["file_id"]][0] == body
    await fleet.settled(1)
    [gone] = fleet.admin.aborted
    assert gone.storage_element_id == "se-02"
    assert gone.file_id != answer.json["file_id"]


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_the_next_element_is_tried_when_one_cannot_be_reached(fleet: Fleet, size: int) -> None:
    gone = fleet.elements[1].entry(url="http://127.0.0.1:1")
    await fleet.know(gone, fleet.elements[2].entry())
    answer = await fleet.ask("POST", UPLOAD, data=os.urandom(size))
    assert (answer.status, answer.json["storage_element_id"]) == (201, "se-03")


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_stalled_element_costs_only_its_timeout(fleet: Fleet, size: int) -> None:
    fleet.elements[1].stalled = True
    answer = await fleet.ask("POST", UPLOAD, data=os.urandom(size))
    assert (answer.status, answer.json["storage_element_id"]) == (201, "se-03")


async def test_an_element_that_fails_during_a_large_body_fails_the_upload(fleet: Fleet) -> None:
    fleet.elements[1].fail_after, fleet.elements[1].fail_with = 2**20, StorageFull("full now")
    answer = await fleet.ask("POST", UPLOAD, data=slowly(os.urandom(LARGE)))
    assert (answer.status, answer.json["code"]) == (507, "storage_full")
    await fleet.settled(1)
    assert (stored(fleet), fleet.admin.committed, fleet.elements[2].asked) == ({}, [], 0)


@pytest.mark.parametrize("error", [InvalidFields("no"), Conflict("no")], ids=lambda error: error.code)
async def test_an_invalid_file_is_not_sent_to_a_second_element(fleet: Fleet, error: ArtStoreError) -> None:
    fleet.elements[1].refuse = error
    answer = await fleet.ask("POST", UPLOAD, data=b"x")
    assert (answer.status, answer.json["code"]) == (error.status, error.code)
    assert fleet.elements[2].asked == 0
    await fleet.settled(1)


async def test_an_element_that_refuses_the_ingester_is_answered_as_our_failure(fleet: Fleet) -> None:
    for element in fleet.elements[1:]:
        element.refuse = Forbidden("no storage:write")
    answer = await fleet.ask("POST", UPLOAD, data=b"x")
    assert (answer.status, answer.json["code"]) == (502, "bad_gateway")


@pytest.mark.parametrize("error", [Unauthenticated(), RateLimited("too many failed requests from this address")])
async def test_an_element_that_refuses_our_token_is_passed_over(fleet: Fleet, error: ArtStoreError) -> None:
    """An element whose clock is wrong refuses every token, and soon the ingester's address."""
    fleet.elements[1].refuse = error
    answer = await fleet.ask("POST", UPLOAD, data=b"x")
    assert (answer.status, fleet.elements[2].asked) == (201, 1)


async def test_without_elements_left_the_last_error_is_answered(fleet: Fleet) -> None:
    for element in fleet.elements[1:]:
        element.refuse = StorageFull("full")
    answer = await fleet.ask("POST", UPLOAD, data=b"x")
    assert (answer.status, answer.json["code"]) == (507, "storage_full")
    await fleet.settled(2)


async def test_an_element_that_stored_a_different_file_fails_the_upload(fleet: Fleet) -> None:
    fleet.elements[1].lie = {"size_bytes": 7}
    answer = await fleet.ask("POST", UPLOAD, data=b"x")
    assert (answer.status, answer.json["code"]) == (502, "bad_gateway")
    await fleet.settled(1)
    assert not fleet.admin.committed


async def test_a_failed_begin_fails_the_upload_without_a_second_element(fleet: Fleet) -> None:
    fleet.admin.fail["/api/sagas/uploads"] = [Unavailable("starting")]
    answer = await fleet.ask("POST", UPLOAD, data=slowly(os.urandom(LARGE)))
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert "retry-after" in answer.headers
    await fleet.settled(1)
    assert fleet.elements[2].asked == 0


async def test_while_admin_does_not_answer_a_small_upload_is_refused_at_once(fleet: Fleet) -> None:
    """It begins before its transfer then, and is not repeated as a commit would be."""
    breaker = fleet.context.sagas._admin.breaker
    breaker.trip(PeerFault(Unavailable("starting")))
    answer = await fleet.ask("POST", UPLOAD, data=b"x")
    breaker.heal()
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert "retry-after" in answer.headers
    assert fleet.admin.requests == 0


async def test_a_commit_without_an_answer_is_repeated(fleet: Fleet) -> None:
    fleet.admin.fail["/api/sagas/commit"] = [Unavailable("starting")]
    answer = await fleet.ask("POST", UPLOAD, data=b"x")
    assert answer.status == 201
    assert len(fleet.admin.committed) == 1


async def test_a_refused_commit_is_never_answered_201(fleet: Fleet) -> None:
    fleet.admin.refuse_commit = Conflict("its lease ran out")
    answer = await fleet.ask("POST", UPLOAD, data=b"x")
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert "retry-after" in answer.headers
    await fleet.settled(1)


@pytest.mark.parametrize("how", ["raw", "form"])
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_client_that_disconnects_leaves_nothing(fleet: Fleet, size: int, how: str) -> None:
    target = urlsplit(fleet.url)
    _, writer = await asyncio.open_connection(target.hostname, target.port)
    token = fleet.session.headers["authorization"]
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' if how == "form" else b""
    kind = "multipart/form-data; boundary=b" if how == "form" else "a/b"
    head = (
        f"POST {UPLOAD} HTTP/1.1\r\nhost: t\r\nauthorization: {token}\r\ncontent-type: {kind}\r\n"
        f"content-length: {size + 1000}\r\n\r\n"
    )
    writer.write(head.encode() + part + os.urandom(size))
    await writer.drain()
    if size == LARGE:
        await settled_element(fleet.elements[1])
    writer.transport.abort()
    if size == LARGE:
        while not fleet.elements[1].cut_off:
            await asyncio.sleep(0.005)
        await fleet.settled(1)
    await asyncio.sleep(0.05)
    assert (stored(fleet), fleet.admin.committed) == ({}, [])
    again = await fleet.ask("POST", UPLOAD, data=b"x")
    assert (again.status, again.json["storage_element_id"]) == (201, "se-02"), "a client's fault opens no breaker"


async def settled_element(element: FakeElement) -> None:
    while not element.asked:
        await asyncio.sleep(0.005)


async def test_clients_that_disconnect_do_not_open_the_breaker(fleet: Fleet) -> None:
    for _ in range(7):
        wrong = {"repr-digest": f"sha-512=:{base64.b64encode(bytes(64)).decode()}:"}
        answer = await fleet.ask("POST", UPLOAD, data=os.urandom(LARGE), headers=wrong)
        assert answer.json["code"] == "digest_mismatch"
    answer = await fleet.ask("POST", UPLOAD, data=os.urandom(LARGE))
    assert (answer.status, answer.json["storage_element_id"]) == (201, "se-02")

"""The data plane as another module meets it: a real process, real sockets, a real catalog."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from artstore.clock import uuid7
from artstore.contracts.storage import (
    FILES_HEADER,
    MAX_FILES_READ,
    SAGA_HEADER,
    FileRead,
    ReadRefused,
    decode_reads,
)
from artstore.errors import from_wire

from ..running import Neighbours, RunningElement, environment, running_element, start_process


@pytest.fixture(scope="module")
async def element(neighbours: Neighbours, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningElement]:
    async with running_element(neighbours, tmp_path_factory.mktemp("elements") / "se-01") as element:
        yield element


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, (1 << 20) + 1, 9_000_000])
async def test_a_file_is_read_as_it_was_put(element: RunningElement, size: int) -> None:
    content = os.urandom(size)
    put = await element.put(content)
    assert put.status == 201, put.body
    record = put.json
    assert record["size_bytes"] == size
    assert record["checksum"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    path = f"/api/files/{record['file_id']}"
    assert (await element.ask("GET", path)).json == record
    answer = await element.ask("GET", f"{path}/content")
    assert (answer.status, answer.body) == (200, content)
    assert answer.headers["etag"] == f'"{record["checksum"]}"'
    assert answer.headers["content-length"] == str(size)


async def read_together(element: RunningElement, *file_ids: str) -> list[FileRead | ReadRefused | None]:
    answer = await element.ask("GET", "/api/files/contents", headers={FILES_HEADER: ",".join(file_ids)})
    assert answer.status == 200, answer.body
    return decode_reads(answer.body)


async def test_small_files_are_read_together_each_with_its_own_result(element: RunningElement) -> None:
    contents = [os.urandom(size) for size in (0, 1, 65_535, 65_536, 65_537)]
    ids = [(await element.put(content)).json["file_id"] for content in contents]
    absent = str(uuid7())
    *found, refused, again = await read_together(element, *ids, absent, ids[1])
    for file_id, content, read in zip(ids, contents, found, strict=True):
        assert isinstance(read, FileRead)
        assert read.record == (await element.ask("GET", f"/api/files/{file_id}")).body
        assert read.content == (content if len(content) <= 65_536 else None)
        assert read.unconfirmed
    assert again == found[1]
    assert isinstance(refused, ReadRefused)
    assert (refused.status, from_wire(refused.status, refused.problem).code) == (404, "not_found")


async def test_too_many_files_or_a_name_that_is_no_id_are_refused(element: RunningElement) -> None:
    for value in ("", "../element.json", f"{uuid7()},", ",".join(str(uuid7()) for _ in range(MAX_FILES_READ + 1))):
        answer = await element.ask("GET", "/api/files/contents", headers={FILES_HEADER: value})
        assert (answer.status, answer.json["code"]) == (400, "malformed"), value


async def test_a_body_of_unknown_length_is_accepted(element: RunningElement) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield bytes(10_000)

    assert (await element.put(chunks())).json["size_bytes"] == 400_000


async def test_one_range_of_the_bytes(element: RunningElement) -> None:
    content = os.urandom(200_000)
    path = f"/api/files/{(await element.put(content)).json['file_id']}/content"
    for header, expected in [("bytes=0-0", content[:1]), ("bytes=100-", content[100:]), ("bytes=-5", content[-5:])]:
        answer = await element.ask("GET", path, headers={"range": header})
        assert (answer.status, answer.body) == (206, expected)
    assert (await element.ask("GET", path, headers={"range": "bytes=200000-"})).status == 416
    for digits in ("9" * 5000, "0" * 5000):
        assert (await element.ask("GET", path, headers={"range": f"bytes=0-{digits}"})).status == 206
    head = await element.ask("HEAD", path)
    assert (head.status, head.headers["content-length"]) == (200, "200000")


async def test_the_same_saga_may_repeat_its_put_and_another_may_not(element: RunningElement) -> None:
    file_id, saga_id = str(uuid7()), str(uuid7())
    first = await element.put(b"one", file_id=file_id, saga_id=saga_id)
    again = await element.put(b"one", file_id=file_id, saga_id=saga_id)
    assert (first.status, again.status) == (201, 200)
    assert first.json == again.json
    assert (await element.put(b"two", file_id=file_id)).status == 409


async def test_a_wrong_digest_stores_nothing(element: RunningElement) -> None:
    for size in (10, 300_000):
        file_id, content = str(uuid7()), os.urandom(size)
        wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
        answer = await element.put(content, file_id=file_id, **{"repr-digest": f"sha-256=:{wrong}:"})
        assert (answer.status, answer.json["code"]) == (400, "digest_mismatch")
        answer = await element.put(content, file_id=file_id, **{"content-md5": base64.b64encode(bytes(16)).decode()})
        assert (answer.status, answer.json["code"]) == (400, "digest_mismatch")
        assert (await element.ask("GET", f"/api/files/{file_id}")).status == 404


async def test_a_patch_makes_the_next_revision(element: RunningElement) -> None:
    record = (await element.put(b"content")).json
    path = f"/api/files/{record['file_id']}"
    answer = await element.ask("PATCH", path, json={"filename": "Новое имя 🎉"}, headers={"if-match": '"1"'})
    assert answer.status == 200
    assert (answer.json["revision"], answer.json["filename"], answer.headers["etag"]) == (2, "Новое имя 🎉", '"2"')
    assert (await element.ask("PATCH", path, json={"tags": []}, headers={"if-match": '"1"'})).status == 412
    assert (await element.ask("PATCH", path, json={"owner": "me"})).status == 422
    assert (await element.ask("GET", path)).json == answer.json


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("*", 200),
        ('"1"', 200),
        ('"3", "1"', 200),
        ('"3","4"', 412),
        ('"01"', 412),
        ('W/"1"', 200),
        ('"2"', 412),
        ('"sha256:00"', 412),
        ('""', 412),
        ('"9999999999999999999999999"', 412),
        ("1", 400),
        ('"1', 400),
        ("", 400),
        ('*, "1"', 400),
    ],
)
async def test_if_match_is_a_condition_on_the_revision(element: RunningElement, given: str, status: int) -> None:
    path = f"/api/files/{(await element.put(b'content')).json['file_id']}"
    assert (await element.ask("PATCH", path, json={"tags": ["a"]}, headers={"if-match": given})).status == status
    assert (await element.ask("GET", path)).json["revision"] == (2 if status == 200 else 1)


async def test_if_match_on_a_missing_file_is_not_found(element: RunningElement) -> None:
    for given in ("*", '"1"', '"1", "2"'):
        answer = await element.ask("DELETE", f"/api/files/{uuid7()}", headers={"if-match": given})
        assert answer.status == 404


@pytest.mark.parametrize("query", ["limit=000000001000000", "limit=0", "limit=1001", "limit=%D9%A3", "colour=red"])
async def test_a_wrong_parameter_of_the_listing_is_refused(element: RunningElement, query: str) -> None:
    answer = await element.ask("GET", f"/api/files?{query}")
    assert (answer.status, answer.json["code"]) == (422, "invalid_fields")


async def test_an_id_may_be_written_in_upper_case(element: RunningElement) -> None:
    record = (await element.put(b"content")).json
    answer = await element.ask("GET", f"/api/files/{record['file_id'].upper()}")
    assert (answer.status, answer.json) == (200, record)


@pytest.mark.parametrize("size", [100, 500_000])
async def test_new_content_replaces_the_old(element: RunningElement, size: int) -> None:
    record = (await element.put(b"old")).json
    path, content = f"/api/files/{record['file_id']}", os.urandom(size)
    answer = await element.ask("PUT", f"{path}/content", data=content, headers={"content-type": "text/plain"})
    assert answer.status == 200, answer.body
    assert (answer.json["revision"], answer.json["size_bytes"]) == (2, size)
    assert (await element.ask("GET", f"{path}/content")).body == content


async def test_a_deleted_file_is_not_found(element: RunningElement) -> None:
    path = f"/api/files/{(await element.put(b'content')).json['file_id']}"
    assert (await element.ask("DELETE", path)).status == 204
    for gone in (path, f"{path}/content"):
        assert (await element.ask("GET", gone)).status == 404
    assert (await element.ask("DELETE", path)).status == 404


async def test_a_compensation_removes_only_the_file_of_its_saga(element: RunningElement) -> None:
    file_id, saga_id = str(uuid7()), str(uuid7())
    path = f"/api/files/{file_id}"
    await element.put(b"content", file_id=file_id, saga_id=saga_id)
    assert (await element.ask("DELETE", path, headers={SAGA_HEADER: str(uuid7())})).status == 409
    assert (await element.ask("DELETE", path, headers={SAGA_HEADER: saga_id})).status == 204
    assert (await element.ask("GET", path)).status == 404
    assert (await element.ask("DELETE", path, headers={SAGA_HEADER: saga_id})).status == 204
    assert (await element.put(b"late", file_id=file_id, saga_id=saga_id)).status == 409


async def test_the_listing_has_every_file_once(element: RunningElement) -> None:
    put = {(await element.put(b"x")).json["file_id"] for _ in range(5)}
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await element.ask("GET", f"/api/files?limit=2{cursor}")).json
        seen += [item["file_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert put <= set(seen)
    assert len(seen) == len(set(seen))


async def test_an_invalid_id_is_refused(element: RunningElement) -> None:
    for path in ("/api/files/..%2f..%2fetc", "/api/files/ABC", f"/api/files/{str(uuid7()).upper()}"):
        assert (await element.ask("GET", path)).status in (400, 404)
    assert (await element.ask("GET", f"/api/files/{uuid7()}", headers={"authorization": "Bearer x"})).status == 401


async def test_the_element_describes_itself(element: RunningElement, neighbours: Neighbours) -> None:
    report = (await element.ask("GET", "/api/element")).json
    assert (report["id"], report["mode"], report["backend"]) == ("se-01", "edit", "local")
    assert report["capacity"]["files"] > 0
    assert any(heard.id == "se-01" and heard.url == element.url for heard in neighbours.admin.reports)


async def test_a_second_process_on_the_same_root_refuses_to_start(
    element: RunningElement, neighbours: Neighbours, tmp_path: Path
) -> None:
    log = tmp_path / "second.log"
    second = start_process(environment(neighbours, element.root, 1, PORT="18999"), log)
    assert second.wait(120) != 0
    assert "another process uses" in log.read_text()
    assert (await element.ask("GET", "/health/live")).status == 200

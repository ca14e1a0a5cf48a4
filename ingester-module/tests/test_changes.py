"""Update and delete through the ingester."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from orjson import dumps
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from artstore.catalog.write import FileEntry, upsert_files
from artstore.clock import uuid7
from artstore.contracts.files import decode
from artstore.errors import ElementFailed, ModeForbids, NotFound, RevisionMismatch, Unavailable

from .conftest import Answer, Fleet


@pytest.fixture
async def catalog(fleet: Fleet) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(fleet.database_url)
    yield engine
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE files"))
    await engine.dispose()


async def upload(fleet: Fleet, body: bytes = b"old") -> dict[str, Any]:
    answer = await fleet.ask("POST", "/api/files/upload", data=body, params={"filename": "a", "retention": "temporary"})
    record: dict[str, Any] = answer.json
    return record


async def put_in_catalog(catalog: AsyncEngine, record: dict[str, Any], saga_id: str | None = None) -> None:
    async with catalog.begin() as connection:
        await upsert_files(connection, [FileEntry(decode(dumps(record)), "put", saga_id)])


async def patched(fleet: Fleet, file_id: str, changes: Any, **headers: str) -> Answer:
    return await fleet.ask("PATCH", f"/api/files/{file_id}", json=changes, headers=headers)


@pytest.mark.parametrize("listed", [True, False], ids=["in the catalog", "unknown to it"])
async def test_a_change_reaches_the_element_that_holds_the_file(
    fleet: Fleet, catalog: AsyncEngine, listed: bool
) -> None:
    record = await upload(fleet)
    if listed:
        await put_in_catalog(catalog, record)
    answer = await patched(fleet, record["file_id"], {"tags": ["ж"], "metadata": {"n": [1]}}, **{"if-match": '"1"'})
    assert (answer.status, answer.headers["etag"]) == (200, '"2"')
    assert (answer.json["tags"], answer.json["metadata"], answer.json["filename"]) == (["ж"], {"n": [1]}, "a")
    assert fleet.elements[0].headers["if-match"] == '"1"'


async def test_attributes_of_a_later_schema_are_not_an_error_of_the_ingester(
    fleet: Fleet, catalog: AsyncEngine
) -> None:
    """An element that was upgraded first answers so."""
    record = await upload(fleet)
    await put_in_catalog(catalog, record)
    file_id, condition = record["file_id"], {"if-match": f'"{record["checksum"]}"'}
    body, kept = fleet.elements[0].files[file_id]
    fleet.elements[0].files[file_id] = (body, {**kept, "schema_version": 99})
    answer = await fleet.ask("PUT", f"/api/files/{file_id}/content", data=b"new", headers=condition)
    assert (answer.status, answer.json["code"]) == (502, "bad_gateway")
    assert fleet.elements[0].files[file_id][0] == body


@pytest.mark.parametrize("size", [0, 10, 3 * 2**20])
async def test_new_content_replaces_the_old(fleet: Fleet, size: int) -> None:
    record, body = await upload(fleet), os.urandom(size)
    answer = await fleet.ask("PUT", f"/api/files/{record['file_id']}/content", data=body)
    assert (answer.status, answer.json["revision"], answer.json["size_bytes"]) == (200, 2, size)
    assert fleet.elements[0].files[record["file_id"]][0] == body


@pytest.mark.parametrize("size", [0, 10, 3 * 2**20])
@pytest.mark.parametrize("header", [None, "text/plain", "application/octet-stream", "nothing"])
@pytest.mark.parametrize(("asked", "passed_on"), [(None, None), ("Text/Plain;charset=a", "text/plain; charset=a")])
async def test_new_content_keeps_the_files_type_unless_a_parameter_names_one(
    fleet: Fleet, size: int, header: str | None, asked: str | None, passed_on: str | None
) -> None:
    record = await upload(fleet)
    answer = await fleet.ask(
        "PUT",
        f"/api/files/{record['file_id']}/content",
        data=os.urandom(size),
        params={} if asked is None else {"content_type": asked},
        headers={} if header is None else {"content-type": header},
        skip_auto_headers=["content-type"],
    )
    assert (answer.status, fleet.elements[0].headers.get("content-type")) == (200, passed_on)


async def test_a_deleted_file_is_not_found(fleet: Fleet) -> None:
    record = await upload(fleet)
    path = f"/api/files/{record['file_id']}"
    answer = await fleet.ask("DELETE", path)
    assert (answer.status, answer.body) == (204, b"")
    assert (await fleet.ask("DELETE", path)).status == 404


async def test_the_elements_refusal_is_passed_on(fleet: Fleet, catalog: AsyncEngine) -> None:
    record = await upload(fleet)
    await put_in_catalog(catalog, record)
    for error in (ModeForbids("rw"), RevisionMismatch("has 2"), ElementFailed("EIO")):
        fleet.elements[0].refuse = error
        answer = await fleet.ask("DELETE", f"/api/files/{record['file_id']}")
        assert (answer.status, answer.json["code"]) == (error.status, error.code)


@pytest.mark.parametrize("file_id", [str(uuid7()), "no-id", str(uuid7()).upper(), "%2e%2e"])
async def test_an_unknown_id_is_not_found(fleet: Fleet, file_id: str) -> None:
    for method, path in (("DELETE", ""), ("PUT", "/content")):
        answer = await fleet.ask(method, f"/api/files/{file_id}{path}")
        assert (answer.status, answer.json["code"]) == (404, "not_found")
    assert (await patched(fleet, file_id, {})).status == 404


async def test_a_file_of_an_uncommitted_upload_is_not_found(fleet: Fleet, catalog: AsyncEngine) -> None:
    record = await upload(fleet)
    await put_in_catalog(catalog, record, str(uuid7()))
    assert (await fleet.ask("DELETE", f"/api/files/{record['file_id']}")).status == 404


async def test_a_file_is_not_called_missing_while_an_element_is_silent(fleet: Fleet) -> None:
    fleet.elements[2].refuse = Unavailable("starting")
    answer = await fleet.ask("DELETE", f"/api/files/{uuid7()}")
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    fleet.elements[2].refuse = NotFound()
    assert (await fleet.ask("DELETE", f"/api/files/{uuid7()}")).status == 404


@pytest.mark.parametrize(
    ("method", "where", "status"), [("PATCH", "", 200), ("PUT", "/content", 200), ("DELETE", "", 204)]
)
async def test_an_id_may_be_written_in_upper_case(fleet: Fleet, method: str, where: str, status: int) -> None:
    file_id = (await upload(fleet))["file_id"].upper()
    headers = {"content-type": "application/json"}
    content = None if method == "DELETE" else b"{}"
    answer = await fleet.ask(method, f"/api/files/{file_id}{where}", data=content, headers=headers)
    assert answer.status == status


async def test_every_line_of_if_match_counts(fleet: Fleet) -> None:
    record = await upload(fleet)
    headers = [("if-match", '"7"'), ("if-match", '"1"')]
    path = f"/api/files/{record['file_id']}"
    assert (await fleet.ask("PATCH", path, json={"tags": []}, headers=headers)).status == 200
    assert fleet.elements[0].headers["if-match"] == '"1"', "the one revision that is changed"
    assert (await fleet.ask("DELETE", path, headers=headers)).status == 412
    assert fleet.elements[0].headers["if-match"] == '"1", "7"'


@pytest.mark.parametrize(
    ("given", "status"),
    [
        *[("*", 200), ('"1"', 200), ('"2"', 412), ('"x"', 412), ("1", 400)],
        *[('W/"1"', 200), ('W/"2"', 412), ('"1-gzip"', 200), ('W/"2", W/"1"', 200)],
    ],
)
async def test_if_match_is_a_condition_on_the_revision(fleet: Fleet, given: str, status: int) -> None:
    record = await upload(fleet)
    assert (await patched(fleet, record["file_id"], {"tags": []}, **{"if-match": given})).status == status


@pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', '"{}-gzip"', '"7", "{}"'])
async def test_new_content_may_depend_on_the_old_contents_etag(fleet: Fleet, form: str) -> None:
    record = await upload(fleet)
    path = f"/api/files/{record['file_id']}/content"
    tag = form.format(record["checksum"])
    for body, status in ((b"new", 200), (b"newer", 412)):
        answer = await fleet.ask("PUT", path, data=body, headers={"if-match": tag})
        assert answer.status == status
    assert fleet.elements[0].files[record["file_id"]][0] == b"new"
    assert (await patched(fleet, record["file_id"], {"tags": []}, **{"if-match": tag})).status == 412, "not its own tag"


@pytest.mark.parametrize(
    ("name", "value"),
    [("content_type", value) for value in ("", "image", "*/*", "a/b, c/d", "text/")] + [("filename", "a")],
)
async def test_new_content_of_an_invalid_type_is_refused(fleet: Fleet, name: str, value: str) -> None:
    record = await upload(fleet)
    path = f"/api/files/{record['file_id']}/content"
    answer = await fleet.ask("PUT", path, data=b"new", params={name: value})
    assert (answer.status, answer.json["fields"]) == (422, [name])
    assert fleet.elements[0].files[record["file_id"]][1]["revision"] == 1


WRONG_PATCHES: list[tuple[Any, str, int]] = [
    (b"{", "application/json", 400),
    (b'{"metadata": ' + b'{"a":' * 10_000, "application/json", 400),
    (b"\xff", "application/json", 400),
    (b"[]", "application/json", 422),
    (b'{"size_bytes": 1}', "application/json", 422),
    (b'{"tags": "a"}', "application/json", 422),
    (b'{"tags": [""]}', "application/json", 422),
    (b'{"filename": "a/b"}', "application/json", 422),
    (b'{"ttl_days": 0}', "application/json", 422),
    (b'{"ttl_days": 366}', "application/json", 422),
    (b'{"ttl_days": 1.5}', "application/json", 422),
    (b'{"expires_at": "2026-01-01T00:00:00Z"}', "application/json", 422),
    (b'{"retention": "temporary"}', "application/json", 422),
    (b'{"retention": "permanent", "tags": []}', "application/json", 422),
    (b'{"moving_to": "se-02"}', "application/json", 422),
    (b'{"filename": null}', "application/json", 422),
    (b'{"metadata": {"n": 123456789012345678901234567890}}', "application/json", 422),
    (b'{"tags": []' + b" " * 70_000 + b"}", "application/json", 413),
    (b"tags=a", "application/x-www-form-urlencoded", 415),
]


@pytest.mark.parametrize(("body", "content_type", "status"), WRONG_PATCHES)
async def test_an_invalid_change_reaches_no_element(fleet: Fleet, body: bytes, content_type: str, status: int) -> None:
    record = await upload(fleet)
    path = f"/api/files/{record['file_id']}"
    answer = await fleet.ask("PATCH", path, data=body, headers={"content-type": content_type})
    assert answer.status == status, answer.body
    assert fleet.elements[0].files[record["file_id"]][1]["revision"] == 1


async def test_new_content_as_a_form_is_refused(fleet: Fleet) -> None:
    record = await upload(fleet)
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = await fleet.ask("PUT", f"/api/files/{record['file_id']}/content", data=b"x", headers=headers)
    assert answer.status == 415


async def test_a_client_that_waits_for_100_learns_that_new_content_is_not_allowed(fleet: Fleet) -> None:
    kept = await fleet.ask("POST", "/api/files/upload", data=b"old", params={"filename": "a"})
    for file_id, status in ((kept.json["file_id"], 409), (str(uuid7()), 404), ((await upload(fleet))["file_id"], 100)):
        target = urlsplit(fleet.url)
        reader, writer = await asyncio.open_connection(target.hostname, target.port)
        writer.write(
            f"PUT /api/files/{file_id}/content HTTP/1.1\r\nhost: t\r\ncontent-length: 1000000\r\nexpect: 100-continue\r\n"
            f"authorization: {fleet.session.headers['authorization']}\r\n\r\n".encode()
        )
        answered = await reader.readline()
        writer.close()
        assert int(answered.split()[1]) == status

"""Forms whose fields come after a large file: it is on an element before they are known."""

from __future__ import annotations

import asyncio
import os
from typing import Any
from urllib.parse import urlsplit

import pytest

from artstore.contracts.elements import Capacity, Fill
from artstore.errors import StorageFull, Unavailable

from ..conftest import Answer, Fleet

UPLOAD = "/api/files/upload"
LARGE = 3 * 2**20
HEADERS = {"content-type": "multipart/form-data; boundary=b"}
TEMPORARY = {"retention": "temporary", "ttl_days": "3", "tags": "договор", "filename": "Акт.pdf"}


def form(body: bytes, **fields: str) -> bytes:
    sent = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n' + body
    for name, value in fields.items():
        sent += f'\r\n--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
    return sent + b"\r\n--b--\r\n"


async def upload(fleet: Fleet, body: bytes, *, key: str | None = None, **fields: str) -> Answer:
    headers = HEADERS if key is None else {**HEADERS, "idempotency-key": key}
    return await fleet.ask("POST", UPLOAD, data=form(body, **fields), headers=headers)


async def test_the_file_is_stored_with_the_later_fields_where_they_want_it(fleet: Fleet) -> None:
    body = os.urandom(LARGE)
    answer = await upload(fleet, body, **TEMPORARY)
    record = answer.json
    assert (answer.status, record["storage_element_id"], record["retention"]) == (201, "se-01", "temporary")
    assert (record["filename"], record["content_type"], record["tags"]) == ("Акт.pdf", "application/pdf", ["договор"])
    assert fleet.elements[0].files[record["file_id"]][0] == body
    await fleet.settled(1)
    [gone], [kept] = fleet.admin.aborted, fleet.admin.committed
    assert (gone.storage_element_id, gone.saga_id != kept.saga_id) == ("se-02", True)
    assert gone.file_id != record["file_id"], "nothing that is undone can remove the file"


async def test_fields_that_change_nothing_cost_no_copy(fleet: Fleet) -> None:
    answer = await upload(fleet, os.urandom(LARGE), retention="permanent", tags="[]", metadata="{}")
    assert (answer.status, answer.json["storage_element_id"]) == (201, "se-02")
    assert (fleet.elements[1].asked, fleet.elements[1].read_alone, fleet.admin.aborted) == (1, [], [])


@pytest.mark.parametrize("error", [StorageFull("full"), Unavailable("starting")], ids=lambda error: error.code)
async def test_a_copy_that_fails_leaves_nothing(fleet: Fleet, error: Any) -> None:
    fleet.elements[0].refuse = error
    answer = await upload(fleet, os.urandom(LARGE), **TEMPORARY)
    assert (answer.status, answer.json["code"]) == (error.status, error.code)
    await fleet.settled(2)
    assert {one.storage_element_id for one in fleet.admin.aborted} == {"se-01", "se-02"}
    assert not fleet.admin.committed


async def test_a_copy_whose_source_breaks_off_leaves_nothing(fleet: Fleet) -> None:
    fleet.elements[1].breaks_after = 2**20
    answer = await upload(fleet, os.urandom(LARGE), **TEMPORARY)
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    await fleet.settled(2)
    assert (fleet.admin.committed, fleet.elements[0].files) == ([], {})


@pytest.mark.parametrize("wrong", [{"retention": "for ever"}, {"ttl_days": "3"}, {"metadata": "["}])
async def test_later_fields_that_are_invalid_leave_nothing(fleet: Fleet, wrong: dict[str, str]) -> None:
    answer = await upload(fleet, os.urandom(LARGE), **wrong)
    assert (answer.status, answer.json["code"]) == (422, "invalid_fields")
    await fleet.settled(len(fleet.admin.begun))
    assert not fleet.admin.committed


async def test_a_repeat_under_a_key_is_compared_with_the_later_fields(fleet: Fleet) -> None:
    body = os.urandom(LARGE)
    first = await upload(fleet, body, key="later", **TEMPORARY)
    again = await upload(fleet, body, key="later", **TEMPORARY)
    assert (first.status, again.status, again.json) == (201, 201, first.json)
    assert again.headers["idempotent-replayed"] == "true"
    for other in ({"tags": "b"}, {"filename": "b.pdf"}, {"retention": "permanent"}):
        fields = {**TEMPORARY, **other}
        if other == {"retention": "permanent"}:
            del fields["ttl_days"]
        refused = await upload(fleet, body, key="later", **fields)
        assert (refused.status, refused.json["code"]) == (422, "idempotency_key_reused"), other
    assert len(fleet.admin.committed) == 1


@pytest.mark.parametrize(
    ("query", "kind", "full", "status"),
    [
        ("", "a/b", [1, 2], 507),
        ("retention=temporary", "a/b", [0], 507),
        ("retention=temporary", "a/b", [1, 2], 100),
        ("", "multipart/form-data; boundary=b", [1, 2], 100),
        ("", "multipart/form-data; boundary=b", [0, 1, 2], 507),
        ("retention=temporary", "multipart/form-data; boundary=b", [0], 507),
        ("retention=for+ever", "multipart/form-data; boundary=b", [], 422),
    ],
)
async def test_a_client_that_waits_for_100_learns_that_there_is_no_space(
    fleet: Fleet, query: str, kind: str, full: list[int], status: int
) -> None:
    nothing = Capacity(total_bytes=2**30, used_bytes=2**30, available_bytes=0, files=0, fill=Fill.FULL)
    await fleet.know(
        *(one.entry(capacity=nothing) if number in full else one.entry() for number, one in enumerate(fleet.elements))
    )
    target = urlsplit(fleet.url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    writer.write(
        f"POST {UPLOAD}?{query} HTTP/1.1\r\nhost: t\r\nauthorization: {fleet.session.headers['authorization']}\r\n"
        f"content-type: {kind}\r\ncontent-length: 1000000\r\nexpect: 100-continue\r\n\r\n".encode()
    )
    answered = await reader.readline()
    writer.close()
    assert int(answered.split()[1]) == status

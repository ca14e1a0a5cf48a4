"""PUT /api/files/{id}: files under ids that clients made."""

from __future__ import annotations

import os
import uuid
from typing import Any

import pytest

from artstore.clock import uuid7
from artstore.errors import ArtStoreError, Conflict, DigestMismatch, RevisionMismatch, Unavailable

from .conftest import Answer, Fleet

NEW = {"if-none-match": "*", "content-type": "a/b"}
LARGE = 3 * 2**20


async def create(fleet: Fleet, file_id: str, body: bytes = b"content", **options: Any) -> Answer:
    headers = {**NEW, **options.pop("headers", {})}
    return await fleet.ask("PUT", f"/api/files/{file_id}", data=body, headers=headers, **options)


@pytest.mark.parametrize("size", [0, 7, LARGE])
@pytest.mark.parametrize("made", [uuid7, uuid.uuid4])
async def test_a_file_is_stored_under_the_id_of_its_client(fleet: Fleet, made: Any, size: int) -> None:
    file_id, body = str(made()), os.urandom(size)
    answer = await create(fleet, file_id.upper(), body, params={"retention": "temporary", "tags": "a"})
    assert (answer.status, answer.headers["location"]) == (201, f"/api/files/{file_id}")
    record = answer.json
    assert (record["file_id"], record["filename"], record["tags"]) == (file_id, file_id, ["a"])
    assert fleet.elements[0].files[file_id][0] == body
    [commit], [begun] = fleet.admin.committed, fleet.admin.begun
    assert (begun.file_id, begun.saga_id, begun.storage_element_id) == (file_id, commit.saga_id, "se-01")
    assert not fleet.admin.aborted


async def test_a_file_that_exists_is_left_alone(fleet: Fleet) -> None:
    file_id = str(uuid7())
    assert (await create(fleet, file_id, b"first")).status == 201
    again = await create(fleet, file_id, b"second")
    assert (again.status, again.json["code"]) == (412, "revision_mismatch")
    assert (fleet.elements[1].files[file_id][0], fleet.elements[1].asked) == (b"first", 1)
    assert not fleet.admin.aborted, "an upload that never began must not be undone: that could reach the first"


REFUSED: list[tuple[str, str, dict[str, Any], int]] = [
    ("no condition", "7", {"if-none-match": None}, 428),
    ("a tag", "7", {"if-none-match": '"1"'}, 400),
    ("several", "7", {"if-none-match": '*, "1"'}, 400),
    ("If-Match", "7", {"if-match": '"1"'}, 400),
    ("a form", "7", {"content-type": "multipart/form-data; boundary=b"}, 415),
    ("version 1", "1", {}, 422),
    ("version 8", "8", {}, 422),
    ("no UUID", "", {}, 404),
]


@pytest.mark.parametrize(
    ("version", "headers", "status"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
async def test_a_request_that_cannot_create_a_file_is_refused_before_any_call(
    fleet: Fleet, version: str, headers: dict[str, Any], status: int
) -> None:
    file_id = f"01a2211e-1f8b-{version}5e5-98b5-a56fcc3ffc65" if version else "report.pdf"
    sent = {name: value for name, value in {**NEW, **headers}.items() if value is not None}
    answer = await fleet.ask("PUT", f"/api/files/{file_id}", data=b"x", headers=sent)
    assert (answer.status, fleet.admin.requests, fleet.elements[1].asked) == (status, 0, 0)


async def test_an_upload_waits_for_another_one_under_its_id(fleet: Fleet) -> None:
    busy = Conflict("another upload", reason="in_progress", retry_after_s=1)
    fleet.admin.fail["/api/sagas/claims"] = [busy, busy]
    assert (await create(fleet, str(uuid7()))).status == 201
    fleet.admin.fail["/api/sagas/claims"] = [busy, RevisionMismatch()]
    assert (await create(fleet, str(uuid7()))).status == 412
    fleet.admin.fail["/api/sagas/claims"] = [Conflict("deleted", reason="deleted")]
    refused = await create(fleet, str(uuid7()))
    assert (refused.status, refused.json["reason"]) == (409, "deleted")
    assert not fleet.admin.aborted


@pytest.mark.parametrize("size", [7, LARGE])
@pytest.mark.parametrize("error", [Unavailable("starting"), Conflict("a file with this id exists already")])
async def test_an_element_that_fails_is_not_followed_by_another(fleet: Fleet, size: int, error: ArtStoreError) -> None:
    fleet.elements[1].refuse = error
    answer = await create(fleet, str(uuid7()), os.urandom(size))
    assert (answer.status, fleet.elements[2].asked) == (error.status, 0)
    await fleet.settled(1)
    assert not fleet.admin.committed


async def test_a_claim_without_an_answer_is_undone(fleet: Fleet) -> None:
    fleet.admin.fail["/api/sagas/claims"] = [Unavailable("starting")]
    answer = await create(fleet, str(uuid7()))
    assert (answer.status, fleet.elements[1].asked) == (503, 0)
    await fleet.settled(1)


async def test_a_commit_is_repeated_and_one_that_is_refused_is_never_201(fleet: Fleet) -> None:
    fleet.admin.fail["/api/sagas/claims/commit"] = [Unavailable("starting")]
    assert (await create(fleet, str(uuid7()))).status == 201
    fleet.admin.refuse_commit = Conflict("its lease ran out")
    assert (await create(fleet, str(uuid7()))).status == 503
    await fleet.settled(1)


async def test_a_wrong_digest_leaves_the_id_free(fleet: Fleet) -> None:
    file_id = str(uuid7())
    wrong = await create(fleet, file_id, headers={"content-md5": "AAAAAAAAAAAAAAAAAAAAAA=="})
    assert (wrong.status, wrong.json["code"]) == (400, DigestMismatch.code)
    await fleet.settled(1)
    assert (await create(fleet, file_id)).status == 201


async def test_a_repeat_under_a_key_gets_the_first_answer(fleet: Fleet) -> None:
    file_id, keyed = str(uuid7()), {"idempotency-key": str(uuid7())}
    first, again = [await create(fleet, file_id, headers=keyed) for _ in range(2)]
    assert (first.status, again.status, again.json) == (201, 201, first.json)
    assert again.headers["idempotent-replayed"] == "true"
    assert (await create(fleet, str(uuid7()), headers=keyed)).status == 422

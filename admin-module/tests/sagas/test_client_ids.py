"""Claims of ids that clients made: one upload at a time, one file for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.sagas.client_ids import ClaimDecision, Found, decide
from artstore.clock import uuid7

from .test_upload import commit_of, saga

CLAIMS = "/api/sagas/claims"
DECISIONS = [
    (Found(own=True), ClaimDecision.GRANTED),
    (Found(own=True, behind=True), ClaimDecision.UNKNOWN),
    (Found(own=True, file_state="available"), ClaimDecision.EXISTS),
    (Found(own=True, file_state="pending"), ClaimDecision.IN_PROGRESS),
    (Found(own=True, saga_state="begun"), ClaimDecision.GRANTED),
    (Found(own=True, saga_state="begun", file_state="pending", behind=True), ClaimDecision.GRANTED),
    (Found(own=True, saga_state="compensating"), ClaimDecision.IN_PROGRESS),
    (Found(own=False, saga_state="begun"), ClaimDecision.IN_PROGRESS),
    (Found(own=False, saga_state="compensating"), ClaimDecision.IN_PROGRESS),
    (Found(own=False, saga_state="compensated"), ClaimDecision.GRANTED),
    (Found(own=False, saga_state="compensated", file_state="pending"), ClaimDecision.IN_PROGRESS),
    (Found(own=False, saga_state="compensated", behind=True), ClaimDecision.UNKNOWN),
    (Found(own=False), ClaimDecision.GRANTED),
    (Found(own=False, used=True), ClaimDecision.DELETED),
    (Found(own=False, used=True, file_state="available"), ClaimDecision.EXISTS),
    (Found(own=False, saga_state="committed"), ClaimDecision.DELETED),
]


@pytest.mark.parametrize(("found", "decision"), DECISIONS)
def test_what_is_known_of_an_id_decides_about_a_claim(found: Found, decision: ClaimDecision) -> None:
    assert decide(found) is decision


class Claiming:
    def __init__(self, admin: Any) -> None:
        self.admin = admin

    async def claim(self, one: dict[str, str]) -> Any:
        return await self.admin.call("POST", CLAIMS, by="ingester", json=one)

    async def commit(self, one: dict[str, str]) -> int:
        answer = await self.admin.call("POST", f"{CLAIMS}/commit", by="ingester", json=commit_of(one))
        return int(answer.status_code)

    async def abort(self, one: dict[str, str]) -> None:
        body = {"saga": one, "reason": "x"}
        assert (await self.admin.call("POST", f"{CLAIMS}/abort", by="ingester", json=body)).status_code == 204

    async def state(self, one: dict[str, str]) -> str | None:
        rows = await self.admin.sql("SELECT state FROM sagas WHERE saga_id = $1", one["saga_id"])
        return rows[0]["state"] if rows else None


@pytest.fixture
def claiming(admin: Any) -> Claiming:
    return Claiming(admin)


def other(one: dict[str, str]) -> dict[str, str]:
    """Another upload under the same id."""
    return {**one, "saga_id": str(uuid7())}


async def test_of_many_claims_at_once_one_is_granted(claiming: Claiming) -> None:
    first = saga()
    sagas = [first, *(other(first) for _ in range(9))]
    answers = await asyncio.gather(*(claiming.claim(one) for one in sagas))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 9
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert (refused.json()["reason"], refused.headers["retry-after"]) == ("in_progress", "1")
    assert [await claiming.state(one) for one in sagas].count("begun") == 1


async def test_a_claim_is_renewed_committed_once_and_announced(admin: Any, claiming: Claiming) -> None:
    one = saga()
    for _ in range(2):
        assert 0 < (await claiming.claim(one)).json()["lease_s"] <= 30
    assert [await claiming.commit(one) for _ in range(2)] == [204, 204]
    [row] = await admin.sql("SELECT state FROM files WHERE file_id = $1", one["file_id"])
    assert row["state"] == "available"
    assert (await claiming.claim(other(one))).status_code == 412
    assert await claiming.commit(other(one)) == 409, "without a claim nothing is committed"


async def test_the_id_of_a_deleted_file_is_not_given_again(admin: Any, claiming: Claiming) -> None:
    one = saga()
    await claiming.claim(one)
    await claiming.commit(one)
    await admin.sql("DELETE FROM files WHERE file_id = $1", one["file_id"])
    await admin.sql("DELETE FROM sagas WHERE saga_id = $1", one["saga_id"])
    refused = await claiming.claim(other(one))
    assert (refused.status_code, refused.json()["reason"]) == (409, "deleted")


async def test_the_id_that_a_deleted_file_had_got_from_the_ingester_is_not_given_either(
    admin: Any, claiming: Claiming
) -> None:
    one = saga()
    await admin.sql(
        """INSERT INTO files (file_id, revision, state, storage_element_id, attributes, filename, content_type, size_bytes,
            owner, tags, metadata, created_at, updated_at, checked_at)
        VALUES ($1, 1, 'pending', 'se-02', '{}', 'a', 'text/plain', 0, 'x', '{}', '{}', now(), now(), now())""",
        one["file_id"],
    )
    await admin.sql("DELETE FROM files WHERE file_id = $1", one["file_id"])
    assert (await claiming.claim(one)).status_code == 200, "an upload that was undone"
    await claiming.commit(one)
    await admin.sql("DELETE FROM claimed_ids WHERE file_id = $1", one["file_id"])
    await admin.sql("DELETE FROM sagas WHERE saga_id = $1", one["saga_id"])
    await admin.sql("DELETE FROM files WHERE file_id = $1", one["file_id"])
    refused = await claiming.claim(other(one))
    assert (refused.status_code, refused.json()["reason"]) == (409, "deleted")


async def test_an_upload_that_never_began_is_not_undone(claiming: Claiming) -> None:
    first = saga()
    second = other(first)
    await claiming.claim(first)
    await claiming.claim(second)
    await claiming.abort(second)
    assert (await claiming.state(first), await claiming.state(second)) == ("begun", None)


async def test_an_id_is_free_again_once_its_upload_is_undone(
    admin: Any, claiming: Claiming, element: Any, eventually: Any
) -> None:
    remote, one = await element("se-01"), saga("se-01")
    remote.status = 503
    await claiming.claim(one)
    await claiming.abort(one)
    second = other(one)
    assert (await claiming.claim(second)).status_code == 409
    assert await claiming.commit(one) == 409

    async def failed() -> bool:
        return bool(await admin.sql("SELECT 1 FROM sagas WHERE saga_id = $1 AND last_error <> ''", one["saga_id"]))

    assert await eventually(failed)
    remote.status = 204
    await admin.sql("UPDATE sagas SET due_at = now() WHERE saga_id = $1", one["saga_id"])

    async def granted() -> bool:
        return bool((await claiming.claim(second)).status_code == 200)

    assert await eventually(granted)
    assert (one["file_id"], one["saga_id"]) in remote.removed
    assert await claiming.commit(second) == 204

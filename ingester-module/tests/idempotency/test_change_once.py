"""PATCH, PUT content and DELETE under an Idempotency-Key with fake neighbours.

The row that a dead attempt leaves is written by the test. Real kills are tested on the whole system (tests/faults).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.idempotency.store import Scope
from artstore.clock import uuid7
from artstore.errors import ArtStoreError, ElementFailed, ModeForbids, NotFound, Unavailable

from ..conftest import Answer, Fleet
from ..test_changes import catalog, put_in_catalog, upload

__all__ = ["catalog"]

OWNER = "tester"
VERBS = ["PATCH", "PUT", "DELETE"]


@dataclass
class Keyed:
    """One request under one key."""

    fleet: Fleet
    method: str
    file_id: str
    key: str

    async def send(self, **changed: Any) -> Answer:
        path = f"/api/files/{self.file_id}" + ("/content" if self.method == "PUT" else "")
        headers = {"idempotency-key": self.key, "content-type": "application/json", **changed.pop("headers", {})}
        data = {"PATCH": b'{"tags": ["new"]}', "PUT": b"new bytes", "DELETE": b""}[self.method]
        return await self.fleet.ask(self.method, path, headers=headers, **{"data": data, **changed})

    async def died_after(self, **set_to: Any) -> None:
        """Leaves the row as a dead attempt does: no answer, the lease ended."""
        columns = ", ".join(f"{name} = :{name}" for name in {"status": None, **set_to})
        engine = create_async_engine(self.fleet.database_url)
        async with engine.begin() as connection:
            statement = text(f"UPDATE idempotency_keys SET held_until = now(), {columns} WHERE key = :key RETURNING 1")
            assert (await connection.execute(statement, {"key": self.key, "status": None, **set_to})).first()
        await engine.dispose()

    async def row(self) -> Any:
        return await self.fleet.context.keys.store.find(Scope(OWNER, self.key))

    @property
    def revision(self) -> int | None:
        """On the element; None when the file is deleted."""
        kept = self.fleet.elements[0].files.get(self.file_id)
        return None if kept is None else int(kept[1]["revision"])

    def changed_by_another(self) -> None:
        body, record = self.fleet.elements[0].files[self.file_id]
        record = {**record, "tags": ["theirs"], "revision": record["revision"] + 1, "checksum": "sha256:" + "0" * 64}
        self.fleet.elements[0].files[self.file_id] = (body, record)


@pytest.fixture(params=VERBS)
async def keyed(fleet: Fleet, catalog: AsyncEngine, request: Any) -> Keyed:
    stored = await fleet.ask(
        "POST", "/api/files/upload", data=b"old", params={"filename": "a", "retention": "temporary"},
        headers={"content-type": "application/json"},
    )  # fmt: skip
    await put_in_catalog(catalog, stored.json)
    return Keyed(fleet, request.param, stored.json["file_id"], str(uuid7()))


def after(keyed: Keyed) -> int | None:
    return None if keyed.method == "DELETE" else 2


async def test_a_change_is_made_once_and_answered_the_same(keyed: Keyed) -> None:
    first = await keyed.send()
    assert (first.status, "idempotent-replayed" in first.headers) == (204 if keyed.method == "DELETE" else 200, False)
    for _ in range(2):
        again = await keyed.send()
        assert (again.status, again.body, again.headers.get("etag")) == (
            first.status,
            first.body,
            first.headers.get("etag"),
        )
        assert again.headers["idempotent-replayed"] == "true"
    assert keyed.revision == after(keyed)


async def test_a_different_change_under_the_key_is_refused(keyed: Keyed) -> None:
    await keyed.send()
    others: list[dict[str, Any]] = [{"headers": {"if-match": '"2"'}}]
    if keyed.method == "PATCH":
        others += [{"data": b'{"tags": []}'}]
    if keyed.method == "PUT":
        others += [{"data": b"other bytes"}, {"params": {"content_type": "a/b"}}]
    for other in others:
        refused = await keyed.send(**other)
        assert (refused.status, refused.json["code"]) == (422, "idempotency_key_reused"), other
    keyed.method = {"PATCH": "PUT", "PUT": "DELETE", "DELETE": "PATCH"}[keyed.method]
    assert (await keyed.send()).json["code"] == "idempotency_key_reused"


@pytest.mark.parametrize("error", [ModeForbids("rw"), NotFound("gone")])
async def test_a_refusal_is_not_stored(keyed: Keyed, error: ArtStoreError) -> None:
    keyed.fleet.elements[0].refuse = error
    assert (await keyed.send()).status == error.status
    assert await keyed.row() is None
    keyed.fleet.elements[0].refuse = None
    assert (await keyed.send()).status in (200, 204)


async def test_a_failed_element_leaves_the_key_to_the_repeat(keyed: Keyed) -> None:
    keyed.fleet.elements[0].refuse = ElementFailed("disk")
    keyed.fleet.admin.fail["/api/sagas/changes"] = [Unavailable("x") for _ in range(9)]
    assert (await keyed.send()).status == 503
    assert (await keyed.send(headers={"if-match": '"1"'})).status == 422
    keyed.fleet.elements[0].refuse = None
    keyed.fleet.context.elements._peer(keyed.fleet.elements[0].entry()).breaker.heal()
    assert (await keyed.send()).status in (200, 204)
    assert keyed.revision == after(keyed)


async def test_a_repeat_continues_an_attempt_that_died_before_the_element_was_asked(keyed: Keyed) -> None:
    keyed.fleet.elements[0].refuse = ElementFailed("disk")
    keyed.fleet.admin.fail["/api/sagas/changes"] = [Unavailable("x") for _ in range(9)]
    await keyed.send()
    keyed.fleet.elements[0].refuse = None
    keyed.fleet.context.elements._peer(keyed.fleet.elements[0].entry()).breaker.heal()
    for pinned in ({}, {"from_revision": 1}) if keyed.method != "DELETE" else ({},):
        await keyed.died_after(**pinned)
    assert (await keyed.send()).status in (200, 204)
    assert keyed.revision == after(keyed)


async def test_an_attempt_that_died_after_the_change_gets_its_answer(keyed: Keyed) -> None:
    first = await keyed.send()
    await keyed.died_after(**({} if keyed.method == "DELETE" else {"from_revision": 1}))
    again = await keyed.send()
    assert (again.status, again.body) == (first.status, first.body)
    assert (again.headers.get("etag"), "idempotent-replayed" in again.headers) == (first.headers.get("etag"), False)
    assert keyed.revision == after(keyed)
    assert (await keyed.send()).headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("ours", [True, False], ids=["after ours", "instead of ours"])
async def test_a_repeat_changes_nothing_when_the_file_was_changed_since(keyed: Keyed, ours: bool) -> None:
    if keyed.method == "DELETE":
        return  # of a file that is gone nothing goes on
    await keyed.send()
    await keyed.died_after(from_revision=1)
    if not ours:
        body, record = keyed.fleet.elements[0].files[keyed.file_id]
        keyed.fleet.elements[0].files[keyed.file_id] = (body, {**record, "revision": 1})
    keyed.changed_by_another()
    revision = keyed.revision
    for _ in range(2):
        told = await keyed.send()
        assert (told.status, told.json["code"], told.json["from_revision"]) == (409, "conflict", 1)
    assert told.headers["idempotent-replayed"] == "true"
    assert told.headers["content-type"] == "application/problem+json"
    assert keyed.revision == revision


async def test_a_change_for_an_unavailable_element_is_queued_once(keyed: Keyed) -> None:
    if keyed.method == "PUT":
        return  # only the client keeps its bytes
    keyed.fleet.elements[0].refuse = Unavailable("starting")
    first = await keyed.send()
    again = await keyed.send()
    assert (first.status, again.status, again.body) == (202, 202, first.body)
    assert (again.headers["location"], again.headers["idempotent-replayed"]) == (first.headers["location"], "true")
    [queued] = keyed.fleet.admin.queued
    assert (queued["keyed"], first.headers["location"]) == (True, f"/api/sagas/{queued['saga_id']}")


async def test_a_change_queued_after_a_dead_attempt_has_the_pinned_revision(keyed: Keyed) -> None:
    if keyed.method != "PATCH":
        return
    keyed.fleet.elements[0].refuse = Unavailable("starting")
    keyed.fleet.admin.fail["/api/sagas/changes"] = [Unavailable("x") for _ in range(2)]
    assert (await keyed.send()).status == 503
    await keyed.died_after(from_revision=1)
    assert (await keyed.send()).status == 202
    assert [queued["if_revisions"] for queued in keyed.fleet.admin.queued] == [[1]]


async def test_a_repeat_under_the_old_contents_etag_gets_the_first_answer(fleet: Fleet) -> None:
    record = await upload(fleet)
    one = Keyed(fleet, "PUT", record["file_id"], "tagged")
    tag = f'"{record["checksum"]}"'
    answers = [await one.send(headers={"if-match": tag}) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert answers[1].headers["idempotent-replayed"] == "true"
    assert fleet.elements[0].files[record["file_id"]][1]["revision"] == 2
    assert (await one.send(headers={"if-match": '"sha256:' + "0" * 64 + '"'})).status == 422, "another request"

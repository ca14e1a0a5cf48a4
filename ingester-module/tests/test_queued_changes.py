"""Changes whose element is unavailable, and changes of files that the catalog lacks or lists wrongly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from orjson import dumps
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from artstore.catalog.write import FileEntry, upsert_files
from artstore.clock import uuid7
from artstore.contracts.files import decode
from artstore.contracts.tokens import Role
from artstore.errors import RevisionMismatch, Unavailable
from artstore.testing.services import PostgresServer, frozen
from artstore.testing.tokens import Signer

from .conftest import Answer, Fleet

CHANGE = {"tags": ["new"]}


@pytest.fixture
async def catalog(fleet: Fleet) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(fleet.database_url)
    yield engine
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE files, sagas"))
    await engine.dispose()


@pytest.fixture
async def record(fleet: Fleet, catalog: AsyncEngine) -> dict[str, Any]:
    """A file of se-01, which may be changed."""
    params = {"filename": "a", "retention": "temporary"}
    stored: dict[str, Any] = (await fleet.ask("POST", "/api/files/upload", data=b"old", params=params)).json
    await list_in(catalog, stored)
    return stored


async def list_in(catalog: AsyncEngine, stored: dict[str, Any]) -> None:
    async with catalog.begin() as connection:
        await upsert_files(connection, [FileEntry(decode(dumps(stored)), "put")])


async def put_in_queue(catalog: AsyncEngine, file_id: str, owner: str = "tester", element: str = "se-01") -> str:
    saga_id = str(uuid7())
    values = {"saga_id": saga_id, "file_id": file_id, "owner": owner, "element": element}
    statement = """INSERT INTO sagas (saga_id, kind, state, file_id, storage_element_id, owner, due_at, wanted) VALUES
        (CAST(:saga_id AS uuid), 'delete', 'queued', CAST(:file_id AS uuid), :element, :owner, now(), '{}')"""
    async with catalog.begin() as connection:
        await connection.execute(text(statement), values)
    return saga_id


async def change(fleet: Fleet, method: str, record: dict[str, Any], **headers: str) -> Answer:
    body = CHANGE if method == "PATCH" else None
    return await fleet.ask(method, f"/api/files/{record['file_id']}", json=body, headers=headers)


async def go_away(fleet: Fleet, how: str) -> None:
    element = fleet.elements[0]
    if how == "says so":
        element.refuse = Unavailable("starting")
    elif how == "does not answer":
        element.stalled = True
    elif how == "is not there":
        await fleet.know(element.entry(url="http://127.0.0.1:9"), *(other.entry() for other in fleet.elements[1:]))


@pytest.mark.parametrize("how", ["says so", "does not answer", "is not there"])
@pytest.mark.parametrize(("method", "kind"), [("PATCH", "update"), ("DELETE", "delete")])
async def test_a_change_is_queued_while_its_element_is_unavailable(
    fleet: Fleet, record: dict[str, Any], method: str, kind: str, how: str
) -> None:
    await go_away(fleet, how)
    answer = await change(fleet, method, record, **{"if-match": '"1", "4"'})
    (queued,) = fleet.admin.queued
    assert (answer.status, answer.headers["location"]) == (202, f"/api/sagas/{queued['saga_id']}")
    assert answer.json["state"] == "queued"
    wanted = (kind, record["file_id"], "se-01", "tester", CHANGE if kind == "update" else None, [1, 4])
    names = ("kind", "file_id", "storage_element_id", "owner", "changes", "if_revisions")
    assert tuple(queued[name] for name in names) == wanted


async def test_new_content_is_refused_while_its_element_is_unavailable(fleet: Fleet, record: dict[str, Any]) -> None:
    await go_away(fleet, "says so")
    answer = await fleet.ask("PUT", f"/api/files/{record['file_id']}/content", data=b"new")
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert fleet.admin.queued == []


async def test_an_element_registered_as_unavailable_is_not_asked(fleet: Fleet, record: dict[str, Any]) -> None:
    await fleet.know(fleet.elements[0].entry(status="away"))
    asked = fleet.elements[0].asked
    assert (await change(fleet, "DELETE", record)).status == 202
    assert fleet.elements[0].asked == asked


async def test_a_change_after_a_queued_one_is_queued_too(
    fleet: Fleet, catalog: AsyncEngine, record: dict[str, Any]
) -> None:
    await put_in_queue(catalog, record["file_id"])
    assert (await change(fleet, "PATCH", record)).status == 202
    assert fleet.elements[0].files[record["file_id"]][1]["revision"] == 1, (
        "the element was there, but it was not its turn"
    )
    content = await fleet.ask("PUT", f"/api/files/{record['file_id']}/content", data=b"new")
    assert (content.status, "retry-after" in content.headers) == (503, True)


async def test_a_change_is_refused_while_admin_is_unavailable_too(fleet: Fleet, record: dict[str, Any]) -> None:
    await go_away(fleet, "says so")
    fleet.admin.fail["/api/sagas/changes"] = [Unavailable("starting")] * 2
    answer = await change(fleet, "PATCH", record)
    assert (answer.status, "retry-after" in answer.headers) == (503, True)
    fleet.admin.fail["/api/sagas/changes"] = [Unavailable("starting")]
    assert (await change(fleet, "PATCH", record)).status == 202, "one answer that is lost is asked for again"


async def test_a_change_that_the_mode_forbids_is_refused_not_queued(fleet: Fleet, catalog: AsyncEngine) -> None:
    stored = (await fleet.ask("POST", "/api/files/upload", data=b"x", params={"filename": "a"})).json
    await list_in(catalog, stored)
    fleet.elements[1].refuse = Unavailable("starting")
    answer = await change(fleet, "DELETE", stored)
    assert (answer.status, answer.json["code"], fleet.admin.queued) == (409, "mode_forbids", [])


async def test_an_empty_change_is_not_queued(fleet: Fleet, record: dict[str, Any]) -> None:
    await go_away(fleet, "says so")
    answer = await fleet.ask("PATCH", f"/api/files/{record['file_id']}", json={})
    assert (answer.status, fleet.admin.queued) == (422, [])


async def test_the_catalog_may_name_the_wrong_element(fleet: Fleet, catalog: AsyncEngine) -> None:
    stored = (await fleet.ask("POST", "/api/files/upload", data=b"x", params={"filename": "a"})).json
    await list_in(catalog, {**stored, "storage_element_id": "se-03"})
    assert (await change(fleet, "PATCH", stored)).status == 200
    assert (await change(fleet, "DELETE", stored)).status == 204
    fleet.elements[0].refuse = Unavailable("starting")
    assert (await change(fleet, "DELETE", stored)).status == 503, "it may be on the one that does not answer"


async def test_a_concurrently_changed_file_is_changed_once(fleet: Fleet, record: dict[str, Any]) -> None:
    """The catalog's revision is stale: the element states its own, and that one is changed."""
    element = fleet.elements[0]
    body, attributes = element.files[record["file_id"]]
    element.files[record["file_id"]] = (body, {**attributes, "revision": 7})
    answer = await change(fleet, "PATCH", record)
    assert (answer.status, answer.json["revision"]) == (200, 8)
    assert element.headers["if-match"] == '"7"'
    assert (await change(fleet, "PATCH", record, **{"if-match": '"7"'})).status == 412
    element.refuse = RevisionMismatch("moving", revision=99)
    assert (await change(fleet, "PATCH", record)).status in (409, 412), "not for ever"


async def test_a_frozen_database_does_not_delay_a_change(
    fleet: Fleet, postgres: PostgresServer, record: dict[str, Any]
) -> None:
    """The command timeout is two minutes here."""
    with frozen(postgres.process.pid):
        async with asyncio.timeout(120):
            answer = await change(fleet, "PATCH", record)
    assert (answer.status, answer.json["tags"]) == (200, ["new"])


async def test_a_saga_is_shown_to_its_owner_and_to_readers_of_all_sagas(
    fleet: Fleet, catalog: AsyncEngine, record: dict[str, Any], signer: Signer
) -> None:
    mine, others = await put_in_queue(catalog, record["file_id"]), await put_in_queue(catalog, str(uuid7()), "else")
    shown = await fleet.ask("GET", f"/api/sagas/{mine.upper()}")
    assert (shown.status, shown.json["saga_id"], shown.json["state"]) == (200, mine, "queued")
    for unknown in (others, str(uuid7()), "no-id"):
        assert (await fleet.ask("GET", f"/api/sagas/{unknown}")).status == 404
    reader = {"authorization": f"Bearer {signer.token(Role.READONLY)}"}
    async with (
        aiohttp.ClientSession(headers=reader) as session,
        session.get(f"{fleet.url}/api/sagas/{others}") as answer,
    ):
        assert answer.status == 200

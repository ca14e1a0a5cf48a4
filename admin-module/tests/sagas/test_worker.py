from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from artstore.catalog.write import FileEntry, upsert_files
from artstore.clock import uuid7
from artstore.contracts.files import decode

from .conftest import REMOVED


def saga(element_id: str = "se-01") -> dict[str, str]:
    return {"saga_id": str(uuid7()), "file_id": str(uuid7()), "storage_element_id": element_id, "owner": "boss"}


def record(one: dict[str, str]) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "file_id": one["file_id"],
        "revision": 1,
        "filename": "a.txt",
        "content_type": "text/plain",
        "size_bytes": 3,
        "checksum": "sha256:" + "0" * 64,
        "storage_element_id": one["storage_element_id"],
        "created_at": "2026-01-01T00:00:00.000000Z",
        "updated_at": "2026-01-01T00:00:00.000000Z",
        "owner": "boss",
        "tags": [],
        "metadata": {},
        "retention": "permanent",
        "expires_at": None,
    }


async def post(admin: Any, what: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await admin.call("POST", f"/api/sagas/{what}", by="ingester", json=body)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()["results"][0]
    return result


async def note_pending(admin: Any, one: dict[str, str]) -> None:
    """Step 5 of a put at an element."""
    engine = create_async_engine(admin.database_url)
    async with engine.begin() as connection:
        await upsert_files(connection, [FileEntry(decode(msgspec.json.encode(record(one))), "put", one["saga_id"])])
    await engine.dispose()


async def look(admin: Any, one: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = (await admin.call("GET", f"/api/sagas/{one['saga_id']}")).json()
    return found


async def test_an_aborted_upload_is_removed_and_forgotten(admin: Any, element: Any, eventually: Any) -> None:
    remote, one = await element("se-01"), saga()
    await post(admin, "uploads", {"sagas": [one]})
    await note_pending(admin, one)
    await post(admin, "abort", {"sagas": [one], "reason": "the client left"})

    async def undone() -> bool:
        return bool((await look(admin, one))["state"] == "compensated")

    assert await eventually(undone)
    assert (one["file_id"], one["saga_id"]) in remote.removed
    assert await admin.sql("SELECT 1 FROM files WHERE file_id = $1", one["file_id"]) == []


async def test_a_lease_that_ran_out_is_undone_and_its_late_commit_refused(
    admin: Any, element: Any, eventually: Any
) -> None:
    remote, one = await element("se-01"), saga()
    await post(admin, "uploads", {"sagas": [one]})
    await admin.sql("UPDATE sagas SET due_at = now() WHERE saga_id = $1", one["saga_id"])

    async def undone() -> bool:
        return bool((await look(admin, one))["state"] == "compensated")

    assert await eventually(undone)
    assert (await look(admin, one))["reason"] == "lease_expired"
    assert (one["file_id"], one["saga_id"]) in remote.removed
    late = await post(admin, "commit", {"sagas": [{"saga_id": one["saga_id"], "attributes": record(one)}]})
    assert late["problem"]["code"] == "conflict"
    assert (await post(admin, "uploads", {"sagas": [one]}))["problem"]["code"] == "conflict"


async def test_a_compensation_is_tried_until_the_element_is_well(admin: Any, element: Any, eventually: Any) -> None:
    remote, one = await element("se-01"), saga()
    remote.status = 503
    await post(admin, "abort", {"sagas": [one], "reason": "the client left"})

    async def failed() -> bool:
        return bool((await look(admin, one))["last_error"] != "")

    assert await eventually(failed)
    assert (await look(admin, one))["state"] == "compensating"
    remote.status = 204
    await admin.sql("UPDATE sagas SET due_at = now() WHERE saga_id = $1", one["saga_id"])

    async def undone() -> bool:
        return bool((await look(admin, one))["state"] == "compensated")

    assert await eventually(undone)
    assert remote.removed == [(one["file_id"], one["saga_id"])]


async def test_an_element_that_comes_back_is_asked_at_once(admin: Any, element: Any, eventually: Any) -> None:
    one = saga("se-02")
    await admin.sql("DELETE FROM storage_elements WHERE element_id = 'se-02'")
    await post(admin, "abort", {"sagas": [one], "reason": "the client left"})

    async def waiting() -> bool:
        return "unavailable" in (await look(admin, one))["last_error"]

    assert await eventually(waiting)
    remote = await element("se-02")

    async def undone() -> bool:
        return bool((await look(admin, one))["state"] == "compensated")

    assert await eventually(undone)
    assert remote.removed == [(one["file_id"], one["saga_id"])]


async def test_an_abandoned_element_is_cleaned_after_the_commit(admin: Any, element: Any, eventually: Any) -> None:
    first, second, one = await element("se-01"), await element("se-02"), saga("se-01")
    await post(admin, "uploads", {"sagas": [one]})
    moved = {**one, "storage_element_id": "se-02"}
    await post(admin, "uploads", {"sagas": [moved]})
    await post(admin, "commit", {"sagas": [{"saga_id": one["saga_id"], "attributes": record(moved)}]})

    async def cleaned() -> bool:
        return (one["file_id"], one["saga_id"]) in first.removed and (await look(admin, one))["due_at"] is None

    assert await eventually(cleaned)
    assert second.removed == []
    assert (await look(admin, one))["state"] == "committed"
    (row,) = await admin.sql("SELECT state, storage_element_id FROM files WHERE file_id = $1", one["file_id"])
    assert (row["state"], row["storage_element_id"]) == ("available", "se-02")


@pytest.mark.parametrize("known", [False, True])
async def test_an_orphaned_pending_file_is_undone(
    admin: Any, second_admin: Any, element: Any, eventually: Any, known: bool
) -> None:
    """Its begin was lost in a database crash, or its put came after the compensation."""
    remote, one = await element("se-01"), saga()
    if known:
        await post(admin, "abort", {"sagas": [one], "reason": "the client left"})

        async def undone_once() -> bool:
            return bool((await look(admin, one))["state"] == "compensated")

        assert await eventually(undone_once)
    await note_pending(admin, one)
    await admin.sql("UPDATE files SET checked_at = now() - interval '1 hour' WHERE file_id = $1", one["file_id"])
    other = await second_admin()  # it sweeps at its start

    async def undone() -> bool:
        return bool((await admin.sql("SELECT 1 FROM files WHERE file_id = $1", one["file_id"])) == [])

    assert await eventually(undone)
    assert remote.removed.count((one["file_id"], one["saga_id"])) == (2 if known else 1)
    await other.aclose()


async def test_elements_are_undone_in_reverse_order_and_none_blocks_the_others(
    admin: Any, element: Any, eventually: Any
) -> None:
    first, last, one = await element("se-01"), await element("se-02"), saga("se-01")
    last.status = 503
    await post(admin, "uploads", {"sagas": [one]})
    await post(admin, "uploads", {"sagas": [{**one, "storage_element_id": "se-02"}]})
    await post(admin, "abort", {"sagas": [{**one, "storage_element_id": "se-02"}], "reason": "the client left"})

    async def first_is_clean() -> bool:
        return bool(first.removed != [])

    assert await eventually(first_is_clean)
    assert (await look(admin, one))["state"] == "compensating", "it is undone when all of them have answered"
    last.status = 204

    async def undone() -> bool:
        return bool((await look(admin, one))["state"] == "compensated")

    assert await eventually(undone)
    assert REMOVED[-2:] == [("se-02", one["file_id"]), ("se-01", one["file_id"])]

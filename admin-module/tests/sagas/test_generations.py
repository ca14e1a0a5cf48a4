"""Uploads whose outcome a rolled-back catalog has lost: kept when the element has the file, undone when it has not."""

from __future__ import annotations

from typing import Any

import pytest

from artstore.clock import uuid7

from .test_worker import look, note_pending, post, record, saga


async def generation(admin: Any) -> int:
    return int((await admin.call("GET", "/api/storage-elements")).json()["generation"])


async def report(admin: Any, remote: Any, **catalog: Any) -> dict[str, Any]:
    path = f"/api/storage-elements/{remote.element_id}/report"
    capacity = {**remote.report()["capacity"], "files": 1}
    body = {**remote.report(), "capacity": capacity, "catalog": catalog}
    answer = await admin.call("POST", path, by=remote.element_id, json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["registry"])


async def make_old(admin: Any, one: dict[str, str]) -> None:
    """A saga as in a dump that was made a day before it was restored."""
    await admin.sql(
        "UPDATE sagas SET begun_at = now() - interval '1 day', due_at = now() WHERE saga_id = $1", one["saga_id"]
    )


async def row_of(admin: Any, one: dict[str, str]) -> str | None:
    rows = await admin.sql("SELECT state FROM files WHERE file_id = $1", one["file_id"])
    return rows[0]["state"] if rows else None


async def audited(admin: Any, action: str, resource: str) -> list[dict[str, Any]]:
    path = f"/api/audit?action={action}&resource={resource}"
    return list((await admin.call("GET", path, by="watcher")).json()["items"])


@pytest.mark.parametrize("pending", [False, True])
async def test_an_upload_of_before_the_generation_is_kept_when_its_element_has_it(
    admin: Any, element: Any, eventually: Any, pending: bool
) -> None:
    remote, one = await element("se-01"), saga()
    remote.files[one["file_id"]] = record(one)
    await post(admin, "uploads", {"sagas": [one]})
    if pending:
        await note_pending(admin, one)
    await make_old(admin, one)

    async def kept() -> bool:
        return bool((await look(admin, one))["state"] == "committed")

    assert await eventually(kept)
    assert (await look(admin, one))["reason"] == "kept_after_restore"
    assert await row_of(admin, one) == "available"
    assert remote.removed == []
    (event,) = await audited(admin, "file:keep", one["file_id"])
    assert event["metadata"]["saga_id"] == one["saga_id"]


async def test_an_upload_of_before_the_generation_is_undone_when_its_element_has_no_file(
    admin: Any, element: Any, eventually: Any
) -> None:
    remote, one = await element("se-01"), saga()
    await post(admin, "uploads", {"sagas": [one]})
    await make_old(admin, one)

    async def undone() -> bool:
        return bool((await look(admin, one))["state"] == "compensated")

    assert await eventually(undone)
    assert remote.removed == [(one["file_id"], one["saga_id"])]


async def test_a_kept_upload_answers_the_repeated_request_under_its_key(
    admin: Any, element: Any, eventually: Any
) -> None:
    remote, one = await element("se-01"), saga()
    remote.files[one["file_id"]] = record(one)
    await admin.sql(
        "INSERT INTO idempotency_keys (client_id, key, fingerprint, saga_id, file_id, held_until) "
        "VALUES ('boss', $1, '', $2, $3, now())",
        one["saga_id"], one["saga_id"], one["file_id"],
    )  # fmt: skip
    await post(admin, "uploads", {"sagas": [one]})
    await make_old(admin, one)

    async def answered() -> bool:
        rows = await admin.sql("SELECT status FROM idempotency_keys WHERE saga_id = $1", one["saga_id"])
        return bool(rows[0]["status"] == 201)

    assert await eventually(answered)


@pytest.mark.parametrize("old", [False, True])
async def test_a_file_that_the_element_holds_as_acknowledged_ends_the_compensation(
    admin: Any, element: Any, eventually: Any, old: bool
) -> None:
    """For a saga of the present generation it shows that the catalog was rolled back: a new generation starts."""
    remote, one = await element("se-01"), saga()
    remote.confirmed.add(one["file_id"])
    remote.files[one["file_id"]] = record(one)
    before = await generation(admin)
    if old:
        await post(admin, "uploads", {"sagas": [one]})
        await admin.sql("UPDATE sagas SET begun_at = now() - interval '1 day' WHERE saga_id = $1", one["saga_id"])
    await post(admin, "abort", {"sagas": [one], "reason": "the client left"})

    async def kept() -> bool:
        if await generation(admin) > before:
            await report(admin, remote, generation=before + 1, reconciled=before + 1)
        return bool((await look(admin, one))["state"] == "committed")

    assert await eventually(kept)
    assert (await look(admin, one))["reason"] == "kept_as_confirmed"
    assert await row_of(admin, one) == "available"
    assert await generation(admin) == (before if old else before + 1)


async def test_nothing_is_undone_before_the_element_has_reconciled(admin: Any, element: Any, eventually: Any) -> None:
    remote, one, late = await element("se-01"), saga(), saga()
    state = await report(admin, remote, generation=await generation(admin), reconciled=await generation(admin) - 1)
    await post(admin, "abort", {"sagas": [one], "reason": "the client left"})
    await post(admin, "uploads", {"sagas": [late]})
    await admin.sql("UPDATE sagas SET due_at = now() WHERE saga_id = $1", late["saga_id"])

    async def waits() -> bool:
        return "reconciled" in (await look(admin, one))["last_error"]

    assert await eventually(waits)
    assert (await look(admin, late))["state"] == "begun"
    assert remote.removed == []
    now = state["generation"]
    await report(admin, remote, generation=now, reconciled=now, version=state["version"], version_generation=now)

    async def undone() -> bool:
        return {(await look(admin, each))["state"] for each in (one, late)} == {"compensated"}

    assert await eventually(undone)


async def test_after_a_database_restart_nothing_is_undone_before_the_element_has_reported(
    admin: Any, element: Any, eventually: Any
) -> None:
    """Its data folder may be an older one: the report's check comes first."""
    remote, one = await element("se-01"), saga()
    await admin.sql("UPDATE storage_elements SET reported_to = 'another run'")
    await post(admin, "abort", {"sagas": [one], "reason": "the client left"})

    async def waits() -> bool:
        return "reconciled" in (await look(admin, one))["last_error"]

    assert await eventually(waits)
    assert remote.removed == []
    await element("se-01")

    async def undone() -> bool:
        return bool((await look(admin, one))["state"] == "compensated")

    assert await eventually(undone)


async def test_a_pending_file_of_an_unknown_saga_of_before_is_kept(
    admin: Any, second_admin: Any, element: Any, eventually: Any
) -> None:
    remote, one = await element("se-01"), {**saga(), "saga_id": str(uuid7(1_700_000_000_000))}
    remote.files[one["file_id"]] = record(one)
    await note_pending(admin, one)
    await admin.sql("UPDATE files SET checked_at = now() - interval '1 hour' WHERE file_id = $1", one["file_id"])
    other = await second_admin()  # it sweeps at its start

    async def kept() -> bool:
        return await row_of(admin, one) == "available"

    assert await eventually(kept)
    assert remote.removed == []
    assert (await look(admin, one))["reason"] == "kept_after_restore"
    await other.aclose()


async def test_leases_start_anew_after_an_outage(admin: Any, element: Any, eventually: Any) -> None:
    await element("se-01")
    one = saga()
    await post(admin, "uploads", {"sagas": [one]})
    await admin.sql(
        "WITH outage AS (UPDATE registry SET attended_at = now() - interval '400 seconds') "
        "UPDATE sagas SET due_at = now() - interval '20 seconds' WHERE saga_id = $1",
        one["saga_id"],
    )

    async def extended() -> bool:
        rows = await admin.sql(
            "SELECT state FROM sagas WHERE saga_id = $1 AND due_at > now() + interval '200 seconds'", one["saga_id"]
        )
        return bool(rows) and rows[0]["state"] == "begun"

    assert await eventually(extended)

"""Queued changes: taken in durably, made in order, once, or refused; by real admins against an element that can fail at will."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from artstore.clock import uuid7

from .test_decision import RECORD


def change(file_id: str, **more: Any) -> dict[str, Any]:
    kind = "update" if "changes" in more else "delete"
    wanted = {"saga_id": str(uuid7()), "kind": kind, "file_id": file_id, "storage_element_id": "se-01", "owner": "boss"}
    return {**wanted, **more}


def put_file(remote: Any) -> str:
    file_id = str(uuid7())
    remote.files[file_id] = {**RECORD, "file_id": file_id, "revision": 1, "tags": ["old"]}
    return file_id


async def queue(admin: Any, wanted: dict[str, Any]) -> str:
    answer = await admin.call("POST", "/api/sagas/changes", by="ingester", json=wanted)
    assert answer.status_code == 202, answer.text
    assert answer.json()["age_s"] >= 0, "queued after its transaction began"
    assert answer.headers["location"] == f"/api/sagas/{wanted['saga_id']}"
    saga_id: str = answer.json()["saga_id"]
    return saga_id


async def finished(admin: Any, eventually: Any, saga_id: str) -> dict[str, Any]:
    async def over() -> dict[str, Any]:
        saga: dict[str, Any] = (await admin.call("GET", f"/api/sagas/{saga_id}")).json()
        return saga if saga["due_at"] is None else {}

    saga: dict[str, Any] = await eventually(over)
    return saga


async def test_a_change_is_made_on_behalf_of_its_account(admin: Any, element: Any, eventually: Any) -> None:
    remote = await element("se-01")
    file_id = put_file(remote)
    updated = await queue(admin, change(file_id, changes={"tags": ["new"]}))
    assert (await finished(admin, eventually, updated))["state"] == "committed"
    assert (remote.files[file_id]["tags"], remote.files[file_id]["revision"]) == (["new"], 2)
    deleted = await queue(admin, change(file_id, account="the id of boss"))
    assert (await finished(admin, eventually, deleted))["state"] == "committed"
    assert file_id not in remote.files
    assert remote.accounts == ["boss", "the id of boss"], "the owner where an earlier ingester named no account"


async def test_the_same_request_again_is_the_same_saga(admin: Any, element: Any, eventually: Any) -> None:
    remote = await element("se-01")
    wanted = change(put_file(remote), changes={"tags": ["new"]})
    await queue(admin, wanted)
    await queue(admin, wanted)
    await finished(admin, eventually, wanted["saga_id"])
    again = await admin.call("POST", "/api/sagas/changes", by="ingester", json=wanted)
    assert (again.status_code, again.json()["state"]) == (202, "committed")
    assert remote.changed == ['PATCH {"tags":["new"]}']
    other = await admin.call("POST", "/api/sagas/changes", by="ingester", json={**wanted, "file_id": str(uuid7())})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")


@pytest.mark.parametrize("condition", [{}, {"if_revisions": [1]}])
@pytest.mark.parametrize("kind", [{"changes": {"tags": ["new"]}}, {}], ids=["update", "delete"])
async def test_a_change_whose_answer_is_lost_is_made_once(
    admin: Any, element: Any, eventually: Any, kind: dict[str, Any], condition: dict[str, Any]
) -> None:
    remote = await element("se-01")
    remote.lose_answers = 1
    saga_id = await queue(admin, change(put_file(remote), **kind, **condition))
    saga = await finished(admin, eventually, saga_id)
    assert (saga["state"], saga["attempts"], len(remote.changed)) == ("committed", 2, 1)


async def test_changes_of_a_file_are_made_in_order_and_one_at_a_time(
    admin: Any, second_admin: Any, element: Any, eventually: Any
) -> None:
    """With two admins, and although the first of them fails at first."""
    other, remote = await second_admin(), await element("se-01")
    file_id = put_file(remote)
    remote.status = 503
    ids = [await queue(admin, change(file_id, changes={"tags": [str(number)]})) for number in range(5)]
    behind = (await admin.call("GET", f"/api/sagas/{ids[3]}")).json()
    assert (behind["waits_for"], behind["attempts"]) == (ids[2], 0)
    remote.status = 204
    assert [(await finished(admin, eventually, saga_id))["state"] for saga_id in ids] == ["committed"] * 5
    assert remote.changed == [f'PATCH {{"tags":["{number}"]}}' for number in range(5)]
    assert (remote.files[file_id]["revision"], remote.most_at_once) == (6, 1)
    await other.aclose()


async def test_the_order_outlives_a_clock_that_was_set_back(admin: Any, element: Any) -> None:
    remote = await element("se-01")
    remote.status, file_id = 503, put_file(remote)
    first = await queue(admin, change(file_id))
    await admin.sql("UPDATE sagas SET begun_at = now() + interval '1 hour' WHERE saga_id = $1", first)
    second = await queue(admin, change(file_id))
    shown = (await admin.call("GET", f"/api/sagas/{second}")).json()
    assert shown["waits_for"] == first
    assert shown["begun_at"] > (await admin.call("GET", f"/api/sagas/{first}")).json()["begun_at"]
    await admin.sql("DELETE FROM sagas WHERE file_id = $1", file_id)


async def test_a_refusal_is_kept_and_the_next_change_goes_on(admin: Any, element: Any, eventually: Any) -> None:
    remote = await element("se-01")
    file_id = put_file(remote)
    outdated = await queue(admin, change(file_id, changes={"tags": ["x"]}, if_revisions=[7]))
    good = await queue(admin, change(file_id, changes={"tags": ["new"]}, if_revisions=[1]))
    saga = await finished(admin, eventually, outdated)
    assert (saga["state"], saga["problem"]["code"], saga["problem"]["status"]) == ("refused", "revision_mismatch", 412)
    assert (await finished(admin, eventually, good))["state"] == "committed"
    unknown = await queue(admin, change(str(uuid7()), changes={"tags": ["x"]}))
    assert (await finished(admin, eventually, unknown))["problem"]["code"] == "not_found"
    gone = await queue(admin, change(str(uuid7())))
    assert (await finished(admin, eventually, gone))["state"] == "committed", "what is not there is deleted"
    event = (await admin.call("GET", "/api/audit", params={"resource": file_id})).json()["items"][0]
    assert (event["action"], event["result"]) == ("file:update", "failure")
    assert event["metadata"] == {"saga_id": outdated, "storage_element": "se-01", "code": "revision_mismatch"}


async def test_hanging_sagas_are_listed_with_their_reason(admin: Any, element: Any, eventually: Any) -> None:
    remote = await element("se-02")
    remote.status, file_id = 503, put_file(remote)
    first = await queue(admin, change(file_id, storage_element_id="se-02"))
    second = await queue(admin, change(file_id, storage_element_id="se-02"))

    async def listed(**params: str) -> list[str]:
        answer = await admin.call("GET", "/api/sagas", params=params)
        return [saga["saga_id"] for saga in answer.json()["items"]]

    async def tried() -> bool:
        """Only once the breaker that earlier tests may have opened has closed."""
        return "503" in (await admin.call("GET", f"/api/sagas/{first}")).json()["last_error"]

    await eventually(tried)
    await admin.sql("UPDATE sagas SET begun_at = now() WHERE saga_id = $1", second)
    assert first in await listed(hanging="true")
    assert second not in await listed(hanging="true"), "it has not been waiting for long"
    await admin.sql(
        "UPDATE sagas SET begun_at = begun_at - interval '1 minute' WHERE saga_id = ANY($1)", [first, second]
    )
    assert {first, second} <= set(await listed(hanging="true", element="se-02", kind="delete", state="queued"))
    for none in ({"element": "se-09"}, {"kind": "mode"}, {"state": "refused"}):
        assert not {first, second} & set(await listed(**none))
    (saga,) = [one for one in (await admin.call("GET", "/api/sagas")).json()["items"] if one["saga_id"] == first]
    assert "503" in saga["last_error"]
    assert saga["age_s"] > 60

    async def counted() -> bool:
        metrics = (await admin.client.get("/metrics")).text.splitlines()
        ages = [
            float(line.split()[1]) for line in metrics if line.startswith('saga_oldest_open_seconds{kind="delete"}')
        ]
        return 'sagas_open{kind="delete",state="queued"} 2.0' in metrics and ages[0] > 60

    await eventually(counted)
    remote.status = 204
    await admin.sql("UPDATE sagas SET due_at = now() WHERE saga_id = ANY($1)", [first, second])  # not after its backoff
    assert (await finished(admin, eventually, second))["state"] == "committed"
    assert not {first, second} & set(await listed(hanging="true"))


WRONG: list[dict[str, Any]] = [
    {"saga_id": "x"}, {"file_id": "X"}, {"kind": "upload"}, {"kind": "mode"}, {"changes": None}, {"changes": {}},
    {"changes": {"filename": "a/b"}}, {"changes": {"size_bytes": 1}}, {"kind": "delete"}, {"if_revisions": []},
    {"if_revisions": [0]}, {"if_revisions": [2**40]}, {"owner": "a\x00"}, {"mode": "ro"},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
async def test_a_change_that_breaks_a_rule_is_not_queued(admin: Any, element: Any, wrong: dict[str, Any]) -> None:
    await element("se-01")
    wanted = {**change(str(uuid7()), changes={"tags": []}), **wrong}
    answer = await admin.call("POST", "/api/sagas/changes", by="ingester", json=wanted)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_fields"), answer.text


async def test_nothing_is_queued_for_an_unknown_element(admin: Any) -> None:
    wanted = change(str(uuid7()), storage_element_id="se-99")
    assert (await admin.call("POST", "/api/sagas/changes", by="ingester", json=wanted)).status_code == 404
    assert (await admin.call("POST", "/api/sagas/changes", by="boss", json=change(str(uuid7())))).status_code == 403


async def test_an_element_whose_breaker_is_open_is_not_asked_and_goes_on_when_it_has_healed(
    own_admin: Any, element: Any, eventually: Any
) -> None:
    admin, remote = await own_admin(), await element("se-02")  # one admin alone: each has breakers of its own
    await admin.call("POST", "/api/storage-elements/se-02/report", by="se-02", json=remote.report())
    files = [put_file(remote) for _ in range(6)]
    remote.status = 503
    ids = [await queue(admin, change(file_id, storage_element_id="se-02")) for file_id in files]

    async def resting() -> bool:
        return 'circuit_breaker_state{edge="se-02"} 2.0' in (await admin.client.get("/metrics")).text

    await eventually(resting)
    asked = remote.asked
    await admin.sql("UPDATE sagas SET due_at = now()")
    await asyncio.sleep(1.5)
    assert remote.asked == asked
    remote.status = 204
    for saga_id in ids:
        assert (await finished(admin, eventually, saga_id))["state"] == "committed"

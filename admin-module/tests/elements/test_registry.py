from __future__ import annotations

from typing import Any

import msgspec
import pytest

from artstore.contracts.elements import CONFIG_CHANNEL, SNAPSHOT_KEY, Snapshot


def report(element_id: str = "se-01", **more: Any) -> dict[str, Any]:
    capacity = {"total_bytes": 100, "used_bytes": 40, "available_bytes": 60, "files": 4, "fill": "ok"}
    given: dict[str, Any] = {"id": element_id, "url": "http://127.0.0.1:18010", "mode": "rw", "backend": "local"}
    # Forced: tests share one admin, and each begins in the mode that it says.
    return {**given, "version": "0.1.0", "capacity": capacity, "mode_forced": True, **more}


async def announce(admin: Any, element_id: str = "se-01", **more: Any) -> dict[str, Any]:
    path = f"/api/storage-elements/{element_id}/report"
    answer = await admin.call("POST", path, by=element_id, json=report(element_id, **more))
    assert answer.status_code == 200, answer.text
    element: dict[str, Any] = answer.json()
    return element


async def snapshot(admin: Any) -> Snapshot:
    return msgspec.json.decode(await admin.redis.get(SNAPSHOT_KEY) or "{}", type=Snapshot)


async def test_an_element_that_announces_itself_is_published(admin: Any, eventually: Any) -> None:
    async with admin.redis.pubsub() as heard:
        await heard.subscribe(CONFIG_CHANNEL)
        element = await announce(admin, priority=7)
        assert (element["status"], element["priority"], element["capacity"]["available_bytes"]) == ("online", 7, 60)

        async def told() -> Snapshot | None:
            message = await heard.get_message(timeout=1)
            if message is None or message["type"] != "message":
                return None
            return msgspec.json.decode(message["data"], type=Snapshot)

        published = await eventually(told)
    assert "se-01" in [one.id for one in published.elements]

    async def kept() -> bool:
        return bool((await snapshot(admin)).version >= published.version)

    assert await eventually(kept)


async def test_the_address_for_clients_is_published_and_audited(admin: Any) -> None:
    await announce(admin)
    element = await announce(admin, public_url="https://se-01.example:8443")
    assert element["public_url"] == "https://se-01.example:8443"
    found = (await admin.call("GET", "/api/audit", params={"action": "element:announce", "resource": "se-01"})).json()
    event = found["items"][0]["metadata"]
    assert (event["public_url"], event["before"]["public_url"]) == ("https://se-01.example:8443", None)
    path, wrong = "/api/storage-elements/se-01/report", report(public_url="https://169.254.169.254")
    assert (await admin.call("POST", path, by="se-01", json=wrong)).status_code == 422
    assert (await announce(admin))["public_url"] is None


async def test_every_change_has_a_higher_version(admin: Any) -> None:
    versions = []
    for _ in range(3):
        await announce(admin)
        versions.append((await admin.call("GET", "/api/storage-elements")).json()["version"])
    assert versions == sorted(set(versions))


async def test_an_older_registry_never_overwrites_a_newer_one(admin: Any, eventually: Any) -> None:
    """Nor does it stay older: the registry goes on above the version that Redis has seen, in a new generation."""
    await announce(admin)
    seen = msgspec.structs.replace(await snapshot(admin), version=(await snapshot(admin)).version + 20_000)
    await admin.redis.set(SNAPSHOT_KEY, msgspec.json.encode(seen))

    async def above() -> Any:
        now = await snapshot(admin)
        assert now.order >= seen.order
        return now if now.order > seen.order else None

    now = await eventually(above)
    assert (now.generation, now.version > seen.version) == (seen.generation + 1, True)


async def test_a_snapshot_that_was_lost_is_written_again(admin: Any, eventually: Any) -> None:
    await announce(admin)
    await admin.redis.flushall()

    async def back() -> bool:
        return bool(await admin.redis.exists(SNAPSHOT_KEY) == 1)

    assert await eventually(back)


async def test_an_element_reports_only_of_itself(admin: Any, eventually: Any) -> None:
    other = await admin.call("POST", "/api/storage-elements/se-02/report", by="se-01", json=report("se-02"))
    mixed = await admin.call("POST", "/api/storage-elements/se-01/report", by="se-01", json=report("se-02"))
    operator = await admin.call("POST", "/api/storage-elements/se-01/report", by="boss", json=report())
    assert [answer.status_code for answer in (other, mixed, operator)] == [403, 422, 403]

    async def denied() -> Any:
        params = {"action": "access:denied", "user_id": await admin.account_id("se-01")}
        events = (await admin.call("GET", "/api/audit", params=params)).json()["items"]
        return [event for event in events if event["resource"] == "se-02"]

    event = (await eventually(denied))[0]
    assert event["metadata"]["client_id"] == "se-01"
    assert event["metadata"]["path"] == "/api/storage-elements/se-02/report"


async def test_a_mode_or_url_changed_by_a_report_is_audited(admin: Any) -> None:
    """By configuration, at its start. A report that changes neither leaves no event."""
    first, moved = "http://127.0.0.1:18020", "http://127.0.0.1:18021"
    for mode, url in (("edit", first), ("edit", first), ("rw", first), ("rw", moved), ("rw", moved)):
        await announce(admin, "se-02", mode=mode, url=url)
    params = {"action": "element:announce", "resource": "se-02", "limit": 3}
    events = (await admin.call("GET", "/api/audit", params=params)).json()["items"]
    assert {(event["user_id"], event["result"]) for event in events} == {(await admin.account_id("se-02"), "success")}
    seen = [(event["metadata"]["mode"], event["metadata"]["url"], event["metadata"]["before"]) for event in events]
    assert seen[:2] == [
        ("rw", moved, {"mode": "rw", "url": first}),
        ("rw", first, {"mode": "edit", "url": first}),
    ]
    assert seen[2][:2] == ("edit", first)


async def test_a_priority_set_at_admin_overrides_the_reported_one(admin: Any) -> None:
    await announce(admin, priority=50)
    changed = await admin.call("PATCH", "/api/storage-elements/se-01", json={"priority": 1})
    assert changed.json()["priority"] == 1
    assert (await announce(admin, priority=50))["priority"] == 1


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host",
        "http://",
        "http://user:password@host",
        "http://host/path",
        "http://host?query",
        "http://host#part",
        "http://host:99999",
        "http://ho\nst",
        "file:///etc/passwd",
    ],
)
async def test_a_url_that_is_not_an_origin_is_refused(admin: Any, url: str) -> None:
    body = {"id": "se-77", "url": url}
    answer = await admin.call("POST", "/api/storage-elements", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_fields")


async def test_an_element_is_registered_changed_and_removed(admin: Any) -> None:
    body = {"id": "se-88", "url": "http://10.0.0.8:8010", "priority": 5}
    made = await admin.call("POST", "/api/storage-elements", json=body)
    again = await admin.call("POST", "/api/storage-elements", json=body)
    assert (made.status_code, made.json()["status"], again.status_code) == (201, "away", 409)
    moved = await admin.call("PATCH", "/api/storage-elements/se-88", json={"url": "http://10.0.0.9:8010"})
    assert (moved.json()["url"], moved.json()["priority"]) == ("http://10.0.0.9:8010", 5)
    assert (await admin.call("DELETE", "/api/storage-elements/se-88")).status_code == 204
    assert (await admin.call("GET", "/api/storage-elements/se-88")).status_code == 404
    events = (await admin.call("GET", "/api/audit", params={"limit": 10})).json()["items"]
    of_it = [event["action"] for event in events if event["resource"] == "se-88"]
    assert of_it == ["element:delete", "element:update", "element:register"]


async def test_an_element_that_holds_files_is_not_removed(admin: Any) -> None:
    await announce(admin, "se-02")
    await admin.sql(
        """INSERT INTO files VALUES (gen_random_uuid(), 1, 'available', NULL, 'se-02', '{}', 'a', 'b/c', 0, 'o', '{}',
        '{}', now(), now(), NULL, now())"""
    )
    answer = await admin.call("DELETE", "/api/storage-elements/se-02")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")

"""An element is bound to one root: others are refused, shown, audited, and taken only by an operator's word."""

from __future__ import annotations

from typing import Any

from .test_registry import announce, report

HERE, THERE = "http://127.0.0.1:18031", "http://127.0.0.1:18032"


async def speak(admin: Any, root_id: str, incarnation: int, instance: str, **more: Any) -> Any:
    given = {"url": HERE, "root_id": root_id, "incarnation": incarnation, "instance": instance, **more}
    body = report("se-02", **given)
    return await admin.call("POST", "/api/storage-elements/se-02/report", by="se-02", json=body)


async def shown(admin: Any) -> dict[str, Any]:
    element: dict[str, Any] = (await admin.call("GET", "/api/storage-elements/se-02")).json()
    return element


async def accept(admin: Any, by: str = "boss") -> Any:
    return await admin.call("POST", "/api/storage-elements/se-02/accept-root", by=by)


async def audited(admin: Any, action: str) -> list[Any]:
    params = {"action": action, "resource": "se-02", "limit": 50}
    items: list[Any] = (await admin.call("GET", "/api/audit", params=params)).json()["items"]
    return items


async def test_the_life_of_a_root_at_the_registry(own_admin: Any) -> None:
    admin = await own_admin()
    # An unknown element may create a root, and is identified by it from its first report on
    assert (await speak(admin, "", 0, "p0")).json() == {"verdict": "make_root"}
    assert (await admin.call("GET", "/api/storage-elements/se-02")).status_code == 404
    assert (await speak(admin, "root-a", 1, "p0")).json()["status"] == "online"

    # Its disk is not mounted: refused, away at once with the reason, its number of files is kept
    lost = await speak(admin, "", 0, "p1")
    assert (lost.status_code, lost.json()["code"]) == (409, "root_refused")
    element = await shown(admin)
    assert (element["status"], element["capacity"]["files"], element["root_id"]) == ("away", 4, "root-a")
    assert "root_refused" in element["away_reason"]
    assert (element["refused"]["code"], element["refused"]["root_id"]) == ("root_refused", "")
    await speak(admin, "", 0, "p1")
    assert len(await audited(admin, "element:refuse-root")) == 1

    # The disk is back: as before, without a word of the operator
    assert (await speak(admin, "root-a", 2, "p2")).json()["status"] == "online"
    assert (await shown(admin))["refused"] is None
    assert (await accept(admin)).status_code == 409

    # A copy at another place that is as old, or older, changes nothing of the one that is known
    for incarnation in (1, 2):
        copy = await speak(admin, "root-a", incarnation, "copy", url=THERE)
        assert (copy.status_code, copy.json()["code"]) == (409, "fenced")
        element = await shown(admin)
        assert (element["status"], element["url"]) == ("online", HERE)
    assert element["refused"]["url"] == THERE

    # A new disk: refused until an operator takes it, and then the old one is refused
    assert (await speak(admin, "root-b", 1, "p3", fenced=True)).json()["code"] == "root_refused"
    assert (await accept(admin, by="reader")).status_code == 403
    assert (await accept(admin)).json()["root_id"] == "root-b"
    assert (await speak(admin, "root-b", 1, "p3", fenced=True)).json()["status"] == "online"
    assert (await speak(admin, "root-a", 9, "p2")).json()["code"] == "root_refused"
    (event,) = await audited(admin, "element:accept-root")
    assert event["user_id"] == await admin.account_id("boss")
    assert event["metadata"]["before"] == {"root_id": "root-a", "incarnation": 2, "files": 4}


async def test_without_a_root_an_operator_lets_the_element_make_one(own_admin: Any) -> None:
    admin = await own_admin()
    await speak(admin, "root-a", 1, "p0")
    assert (await speak(admin, "", 0, "p1")).status_code == 409
    assert (await accept(admin)).status_code == 200
    assert (await speak(admin, "", 0, "p1")).json() == {"verdict": "make_root"}
    assert (await speak(admin, "root-b", 1, "p1")).json()["root_id"] == "root-b"


async def test_an_element_from_before_root_ids_is_taken_over_silently(own_admin: Any) -> None:
    admin = await own_admin()
    await announce(admin, "se-02", url=HERE)
    assert (await shown(admin))["root_id"] is None
    assert (await speak(admin, "root-a", 1, "p0")).json()["root_id"] == "root-a"


async def test_an_element_that_cannot_serve_is_away_with_its_reason(own_admin: Any) -> None:
    admin = await own_admin()
    await speak(admin, "root-a", 1, "p0")
    nothing = {"total_bytes": 0, "used_bytes": 0, "available_bytes": 0, "files": 0, "fill": "full"}
    await speak(admin, "root-a", 1, "p0", away_reason="the root is gone", capacity=nothing)
    element = await shown(admin)
    assert (element["status"], element["away_reason"], element["capacity"]["files"]) == ("away", "the root is gone", 4)
    await speak(admin, "root-a", 1, "p0")
    assert ((await shown(admin))["status"], (await shown(admin))["away_reason"]) == ("online", None)


async def test_the_registry_refuses_a_mode_that_goes_back(own_admin: Any) -> None:
    admin = await own_admin()
    assert (await speak(admin, "root-a", 1, "p0", mode="ar", mode_forced=False)).json()["mode"] == "ar"
    assert (await speak(admin, "root-a", 2, "p1", mode="rw", mode_forced=False)).json()["mode"] == "ar"
    assert (await speak(admin, "root-a", 3, "p2", mode="rw", mode_forced=True)).json()["mode"] == "rw"
    forced, first = await audited(admin, "element:announce")
    assert (forced["metadata"]["mode"], forced["metadata"]["forced"]) == ("rw", True)
    assert "forced" not in first["metadata"]

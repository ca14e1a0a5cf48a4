"""Deletes, updates and mode changes of an element that is away: queued, made once and in order despite kills."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.fleet import Fleet, eventually, running_fleet

from artstore.testing.services import free_port

CALL_S = "2"
"""How long an element that does not answer is waited for."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with running_fleet(settings={"ELEMENT_CALL_TIMEOUT_S": CALL_S, "AUDIT_CHECKPOINT_EVERY_S": "5"}) as started:
        yield started


class User:
    """One account and its files on se-01, which is in mode edit."""

    def __init__(self, fleet: Fleet, role: str = "USER") -> None:
        account = fleet.new_account(role)
        self.fleet, self.client_id, self.account_id = fleet, account["client_id"], account["id"]
        self.token = fleet.token({name: account[name] for name in ("client_id", "client_secret")})

    def upload(self) -> str:
        """Waits for an element whose last report went to an admin that was frozen."""

        def store() -> httpx.Response | None:
            stored = self.fleet.upload(self.token, retention="temporary", ttl_days="1")
            return None if stored.status_code == 503 else stored

        stored = eventually(store)
        assert stored is not None
        assert stored.status_code == 201, stored.text
        return str(stored.json()["file_id"])

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.fleet.call(method, "ingester", path, self.token, **options)

    def patch(self, file_id: str, if_match: str = "", **changes: Any) -> httpx.Response:
        headers = {"if-match": if_match} if if_match else {}
        return self.call("PATCH", f"/api/files/{file_id}", json=changes, headers=headers)

    def delete(self, file_id: str) -> httpx.Response:
        return self.call("DELETE", f"/api/files/{file_id}")

    def record(self, file_id: str) -> httpx.Response:
        """As the element has it on its disk."""
        service = self.fleet.token(self.fleet.credentials("query"))
        return self.fleet.call("GET", "se-01", f"/api/files/{file_id}", service)

    def follow(self, answer: httpx.Response) -> dict[str, Any]:
        """The saga that a 202 names, when it is finished."""
        assert answer.status_code == 202, answer.text

        def finished() -> dict[str, Any]:
            saga: dict[str, Any] = self.call("GET", answer.headers["location"]).json()
            return saga if saga["due_at"] is None else {}

        return eventually(finished)


@pytest.fixture(scope="module")
def user(fleet: Fleet) -> User:
    return User(fleet)


def come_back(fleet: Fleet, name: str = "se-01", **settings: str) -> None:
    fleet.start(name, settings)
    fleet.ready(name)


def test_what_was_asked_while_an_element_was_dead_is_made_once_and_in_order(fleet: Fleet, user: User) -> None:
    several, gone, once, never = (user.upload() for _ in range(4))
    fleet.stop("se-01", signal.SIGKILL)
    first = user.patch(several, tags=["1"])
    second = user.patch(several, metadata={"n": 1e22, "yes": True, "one": 1, "float": 1.0})
    third = user.patch(several, tags=["3"])
    deleted, conditional, outdated = (
        user.delete(gone),
        user.patch(once, '"1"', tags=["x"]),
        user.patch(never, '"9"', tags=["x"]),
    )
    for answer in (first, second, third, deleted, conditional, outdated):
        assert (answer.status_code, answer.json()["state"], answer.json()["attempts"]) == (202, "queued", 0), (
            answer.text
        )
        assert answer.headers["location"] == f"/api/sagas/{answer.json()['saga_id']}"
    assert third.json()["waits_for"] == second.json()["saga_id"]
    content = user.call("PUT", f"/api/files/{several}/content", content=b"new")
    assert (content.status_code, "retry-after" in content.headers) == (503, True)
    # who may look, and where
    assert User(fleet).call("GET", first.headers["location"]).status_code == 404
    assert fleet.call("GET", "admin-2", first.headers["location"], user.token).status_code == 401
    assert User(fleet, "READONLY").call("GET", first.headers["location"]).json()["wanted"]["changes"] == {"tags": ["1"]}
    hanging = eventually(lambda: hangs(fleet, first.json()["saga_id"]))
    assert (hanging["state"], hanging["attempts"] > 0, "se-01" in hanging["last_error"]) == ("queued", True, True)

    fleet.ports["se-01"] = free_port()  # it comes back under another URL
    come_back(fleet)
    states = [user.follow(answer)["state"] for answer in (first, second, third, deleted, conditional)]
    assert states == ["committed"] * 5
    refused = user.follow(outdated)
    assert (refused["state"], refused["problem"]["code"], refused["problem"]["status"]) == (
        "refused",
        "revision_mismatch",
        412,
    )
    assert [user.record(file_id).status_code for file_id in (several, gone)] == [200, 404]
    record = user.record(several).json()
    assert (record["revision"], record["tags"]) == (4, ["3"])
    assert record["metadata"] == {"n": 1e22, "yes": True, "one": 1, "float": 1.0}
    assert {name: type(value) for name, value in record["metadata"].items()} == {
        "n": float,
        "yes": bool,
        "one": int,
        "float": float,
    }
    assert [user.record(file_id).json()["revision"] for file_id in (once, never)] == [2, 1]
    assert fleet.call("GET", "query", f"/api/files/{gone}", user.token).status_code == 404
    (event,) = audited(fleet, "file:delete", gone)
    assert (event["service"], event["user_id"], event["result"]) == ("se-01", user.account_id, "success")
    assert event["metadata"] == {"file_size": 7, "storage_element": "se-01", "revision": 2}
    assert fleet.call("GET", "admin-1", "/api/audit/verify").json()["findings"] == []


def hangs(fleet: Fleet, saga_id: str) -> dict[str, Any]:
    params = {"hanging": "true", "kind": "update", "element": "se-01", "state": "queued"}
    listed = fleet.call("GET", "admin-2", "/api/sagas", params=params).json()["items"]
    return next((saga for saga in listed if saga["saga_id"] == saga_id), {})


def audited(fleet: Fleet, action: str, resource: str) -> list[dict[str, Any]]:
    params = {"action": action, "resource": resource}
    found: list[dict[str, Any]] = fleet.call("GET", "admin-1", "/api/audit", params=params).json()["items"]
    return found


def test_a_change_that_a_paused_element_may_have_made_is_made_once(fleet: Fleet, user: User) -> None:
    """The request is in the element's socket buffer: it is carried out when the element wakes, beside what admin asks."""
    changed, gone = user.upload(), user.upload()
    fleet.processes["se-01"].send_signal(signal.SIGSTOP)
    patched, deleted = user.patch(changed, tags=["late"]), user.delete(gone)
    behind = user.patch(changed, tags=["after"])
    fleet.processes["se-01"].send_signal(signal.SIGCONT)
    assert [user.follow(answer)["state"] for answer in (patched, deleted, behind)] == ["committed"] * 3
    record = user.record(changed).json()
    assert (record["revision"], record["tags"]) == (3, ["after"])
    assert user.record(gone).status_code == 404


@pytest.mark.parametrize("point", ["admin.saga_claimed", "admin.change_made"])
def test_an_admin_that_dies_over_a_change_leaves_it_to_another(fleet: Fleet, user: User, point: str) -> None:
    file_id = user.upload()
    fleet.stop("admin-2")
    fleet.stop("se-01", signal.SIGKILL)
    answer = user.patch(file_id, tags=[point])
    assert answer.status_code == 202
    fleet.stop("admin-1", signal.SIGKILL)
    fleet.start("admin-1", {"ARTSTORE_POINT": f"{point}:kill"})
    fleet.start("se-01")
    assert fleet.processes.pop("admin-1").wait(120) == -signal.SIGKILL
    if point == "admin.change_made":
        eventually(lambda: user_sees(fleet, file_id, 2))
    for name in ("admin-2", "admin-1"):
        fleet.start(name)
    fleet.ready("admin-1", "admin-2", "se-01")
    assert user.follow(answer)["state"] == "committed"
    assert (user.record(file_id).json()["revision"], user.record(file_id).json()["tags"]) == (2, [point])


def user_sees(fleet: Fleet, file_id: str, revision: int) -> bool:
    """Read from the disk, because a login is not possible while admin is dead."""
    (found,) = fleet.folder.glob(f"se-01/files/*/*/{file_id}.attr.json")
    return f'"revision":{revision}' in found.read_text()


@pytest.mark.parametrize("point", ["admin.change_looked", "admin.change_held"])
def test_an_admin_that_was_only_paused_changes_nothing_when_it_wakes(fleet: Fleet, user: User, point: str) -> None:
    """Its change has been made by the other one meanwhile, and so has the change after it, which must stand."""
    file_id = user.upload()
    fleet.stop("se-01", signal.SIGKILL)
    first, second = user.patch(file_id, tags=["first"]), user.patch(file_id, tags=["second"])
    for name in ("admin-1", "admin-2"):
        fleet.stop(name)
    fleet.start("admin-1", {"ARTSTORE_POINT": f"{point}:pause"})
    fleet.start("se-01")
    paused = fleet.processes["admin-1"]
    eventually(lambda: state_of(paused.pid) == "T")
    fleet.start("admin-2")
    fleet.ready("admin-2")
    assert [user.follow(answer)["state"] for answer in (first, second)] == ["committed"] * 2
    before = claims_lost(fleet)
    paused.send_signal(signal.SIGCONT)
    eventually(lambda: claims_lost(fleet) > before)
    fleet.ready("admin-1", "se-01")
    record = user.record(file_id).json()
    assert (record["revision"], record["tags"]) == (3, ["second"])
    fleet.stop("admin-1")
    come_back(fleet, "admin-1")


def test_an_admin_that_freezes_in_a_transaction_keeps_the_other_from_nothing(fleet: Fleet, user: User) -> None:
    """It holds the row of the change, and its lock, until PostgreSQL ends the transaction."""
    file_id = user.upload()
    fleet.stop("se-01", signal.SIGKILL)
    first, second = user.patch(file_id, tags=["first"]), user.patch(file_id, tags=["second"])
    for name in ("admin-1", "admin-2"):
        fleet.stop(name)
    fleet.start("admin-1", {"ARTSTORE_POINT": "admin.change_closing:pause"})
    fleet.start("se-01")
    paused = fleet.processes["admin-1"]
    eventually(lambda: state_of(paused.pid) == "T")
    fleet.start("admin-2")
    fleet.ready("admin-2")
    assert [user.follow(answer)["state"] for answer in (first, second)] == ["committed"] * 2
    paused.send_signal(signal.SIGCONT)
    fleet.ready("admin-1", "se-01")
    record = user.record(file_id).json()
    assert (record["revision"], record["tags"]) == (3, ["second"])
    fleet.stop("admin-1")
    come_back(fleet, "admin-1")


def claims_lost(fleet: Fleet) -> int:
    return (fleet.folder / "admin-1.log").read_text().count("claim lost")


def state_of(pid: int) -> str:
    """T: stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_two_admins_share_the_work_and_make_nothing_twice(fleet: Fleet, user: User) -> None:
    files = [user.upload() for _ in range(6)]
    before = made(fleet)
    fleet.stop("se-01", signal.SIGKILL)
    answers = [user.patch(file_id, tags=[str(number)]) for number in range(6) for file_id in files]
    come_back(fleet)
    assert {user.follow(answer)["state"] for answer in answers} == {"committed"}
    records = [user.record(file_id).json() for file_id in files]
    assert [(record["revision"], record["tags"]) for record in records] == [(7, ["5"])] * len(files)
    assert made(fleet) - before == len(answers)


def made(fleet: Fleet) -> float:
    """Changes made, as the admins together count them."""
    texts = [httpx.get(f"{fleet.url(name)}/metrics").text for name in ("admin-1", "admin-2")]
    counted = [re.findall(r'^saga_changes_total\{kind="update",result="ok"\} (\S+)', text, re.M) for text in texts]
    return sum(float(value) for values in counted for value in values)


def test_an_element_that_is_away_gets_its_mode_when_it_is_back(fleet: Fleet) -> None:
    fleet.stop("se-02", signal.SIGKILL)
    path = "/api/storage-elements/se-02/mode"
    to_ro, to_ar = (fleet.call("POST", "admin-1", path, json={"mode": mode}) for mode in ("ro", "ar"))
    assert (to_ro.status_code, to_ar.status_code) == (202, 202), to_ro.text + to_ar.text
    assert to_ar.json()["waits_for"] == to_ro.json()["saga_id"]
    again = fleet.call("POST", "admin-2", path, json={"mode": "ar"})
    assert (again.status_code, again.json()["saga_id"]) == (202, to_ar.json()["saga_id"]), "it is queued already"
    back = fleet.call("POST", "admin-1", path, json={"mode": "rw"})
    assert (back.status_code, back.json()["code"]) == (409, "conflict")
    come_back(fleet, "se-02")

    def in_mode() -> bool:
        return bool(fleet.call("GET", "admin-2", "/api/storage-elements/se-02").json()["mode"] == "ar")

    eventually(in_mode)
    sagas = [fleet.call("GET", "admin-1", answer.headers["location"]).json() for answer in (to_ro, to_ar)]
    assert [saga["state"] for saga in sagas] == ["committed", "committed"]
    assert '"mode":"ar"' in (fleet.folder / "se-02" / "element.json").read_text().replace(" ", "")
    assert len(audited(fleet, "element:queue-mode", "se-02")) == 2


def test_what_the_element_forbids_when_it_is_back_is_refused_and_shown(fleet: Fleet, user: User) -> None:
    """The last one: se-01 cannot be changed any more."""
    kept = user.upload()
    fleet.stop("se-01", signal.SIGKILL)
    deleted, patched = user.delete(kept), user.patch(kept, tags=["x"])
    come_back(fleet, STORAGE_MODE="rw")
    for answer in (deleted, patched):
        saga = user.follow(answer)
        assert (saga["state"], saga["problem"]["code"], saga["problem"]["status"]) == ("refused", "mode_forbids", 409)
    assert user.record(kept).json()["revision"] == 1
    (event,) = audited(fleet, "file:delete", kept)
    assert (event["result"], event["metadata"]["code"]) == ("failure", "mode_forbids")

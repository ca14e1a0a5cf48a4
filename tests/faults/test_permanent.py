"""A temporary file becomes permanent: it moves to another element, and no crash on the way loses or doubles it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.fleet import Fleet, eventually, running_fleet

SMALL, LARGE = 1000, 300_000
"""A small file goes into the frame of the element's log, a large one does not."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with running_fleet(settings={"ELEMENT_CALL_TIMEOUT_S": "2"}) as started:
        yield started


@pytest.fixture(scope="module")
def token(fleet: Fleet) -> str:
    return fleet.token(fleet.new_account())


class Draft:
    """A temporary file on se-01."""

    def __init__(self, fleet: Fleet, token: str, size: int) -> None:
        self.fleet, self.token, self.content = fleet, token, os.urandom(size)
        self.record = eventually(self._upload)
        self.path = f"/api/files/{self.record['file_id']}"

    def _upload(self) -> dict[str, Any]:
        stored = self.fleet.upload(self.token, self.content, retention="temporary", tags='["draft"]')
        return stored.json() if stored.status_code == 201 else {}

    def make_permanent(self, **headers: str) -> httpx.Response:
        return self.fleet.call(
            "PATCH", "ingester", self.path, self.token, json={"retention": "permanent"}, headers=headers
        )

    def copies(self) -> list[str]:
        """The elements with the file's attr.json or data on their disks."""
        name = self.record["file_id"]
        found = self.fleet.folder.glob(f"se-*/files/*/*/{name}*")
        return sorted({path.relative_to(self.fleet.folder).parts[0] for path in found})

    def finished(self, queued: httpx.Response) -> dict[str, Any]:
        assert queued.status_code == 202, queued.text

        def over() -> dict[str, Any]:
            answer = self.fleet.call("GET", "ingester", queued.headers["location"], self.token)
            return answer.json() if answer.status_code == 200 and answer.json()["due_at"] is None else {}

        return eventually(over)

    def is_permanent(self) -> None:
        record = self.fleet.call("GET", "query", self.path, self.token).json()
        assert (record["retention"], record["expires_at"], record["storage_element_id"]) == ("permanent", None, "se-02")
        assert (record["tags"], record["created_at"]) == (["draft"], self.record["created_at"])
        assert "moving_to" not in record
        assert self.fleet.call("GET", "query", self.path + "/content", self.token).content == self.content
        assert self.copies() == ["se-02"]


@pytest.mark.parametrize("size", [0, SMALL, LARGE])
def test_a_file_moves_with_its_attributes(fleet: Fleet, token: str, size: int) -> None:
    draft = Draft(fleet, token, size)
    assert draft.finished(draft.make_permanent())["state"] == "committed"
    draft.is_permanent()


POINTS = ["admin.saga_claimed", "admin.move_marked", "admin.move_copied", "admin.move_switched", "admin.change_made"]


@pytest.mark.parametrize("point", POINTS)
def test_another_admin_continues_when_one_dies(fleet: Fleet, token: str, point: str) -> None:
    draft, service = Draft(fleet, token, LARGE), fleet.token(fleet.credentials("ingester"))
    fleet.stop("admin-2")
    fleet.stop("admin-1")
    fleet.start("admin-1", {"ARTSTORE_POINT": f"{point}:kill"})
    fleet.ready("admin-1")
    queued = eventually(lambda: answer if (answer := draft.make_permanent()).status_code == 202 else None)
    assert fleet.processes.pop("admin-1").wait(120) == -signal.SIGKILL
    if point in ("admin.move_marked", "admin.move_copied", "admin.move_switched"):
        for method, body in (("DELETE", None), ("PATCH", {"tags": []})):
            refused = fleet.call(method, "se-01", draft.path, service, json=body)
            assert (refused.status_code, refused.json()["code"]) == (409, "conflict"), refused.text
    for name in ("admin-2", "admin-1"):
        fleet.start(name)
    fleet.ready("admin-2", "admin-1")
    assert draft.finished(queued)["state"] == "committed"
    draft.is_permanent()
    assert fleet.call("GET", "admin-1", "/api/audit/verify").json()["findings"] == []


@pytest.mark.parametrize(
    ("element", "point"),
    [
        ("se-01", "update.published"),
        ("se-02", "put.intended"),
        ("se-02", "put.published"),
        ("se-02", "put.noted"),
        ("se-01", "delete.removed"),
    ],
)
def test_an_element_that_dies_on_the_way_changes_nothing(fleet: Fleet, token: str, element: str, point: str) -> None:
    draft = Draft(fleet, token, LARGE)
    fleet.stop(element)
    fleet.start(element, {"ARTSTORE_POINT": f"{point}:kill"})
    fleet.ready(element)
    queued = draft.make_permanent()
    assert fleet.processes.pop(element).wait(120) == -signal.SIGKILL
    fleet.start(element)
    fleet.ready(element)
    assert draft.finished(queued)["state"] == "committed"
    draft.is_permanent()


def test_a_condition_that_does_not_hold_refuses_the_move(fleet: Fleet, token: str) -> None:
    draft = Draft(fleet, token, SMALL)
    refused = draft.make_permanent(**{"if-match": '"7"'})
    assert (refused.status_code, refused.json()["code"]) == (412, "revision_mismatch")
    assert draft.copies() == ["se-01"]


def test_the_next_element_takes_the_file_when_the_first_has_no_room_any_more(fleet: Fleet, token: str) -> None:
    draft = Draft(fleet, token, LARGE)
    fleet.start("se-03", {"STORAGE_MODE": "rw", "STORAGE_PRIORITY": "200"})
    fleet.ready("se-03")
    eventually(lambda: "se-03" in Draft(fleet, token, SMALL).make_permanent().text)  # the ingester knows it
    fleet.stop("se-01")
    queued = draft.make_permanent()
    fleet.stop("se-02")
    fleet.start("se-02", {"STORAGE_QUOTA_BYTES": "1000"})
    fleet.start("se-01")
    fleet.ready("se-02", "se-01")
    assert draft.finished(queued)["state"] == "committed"
    record = fleet.call("GET", "query", draft.path, token).json()
    assert (record["retention"], record["storage_element_id"]) == ("permanent", "se-03")
    assert draft.copies() == ["se-03"]

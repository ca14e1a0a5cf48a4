"""Changes under an Idempotency-Key, struck at every point: made once, and every repeat has the same answer."""

from __future__ import annotations

import ast
import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.fleet import ROOT, Fleet, eventually
from support.keyed import LEASE_OVER, Keyed, same_answer, sql, start

VERBS = ("PATCH", "PUT", "DELETE")
POINTS = {"key.claimed": False, "key.pinned": False, "change.made": False, "key.answered": True}
"""Failpoints of a first attempt in the ingester; True: its answer is kept by then, and a repeat only replays it."""
STRIKES = [(verb, point) for verb in VERBS for point in POINTS if (verb, point) != ("DELETE", "key.pinned")]
ELSEWHERE = {
    "key.taken_over", "key.moved", "upload.transferred", "upload.committed", "batch.transferred", "batch.committed",
    "create.claimed", "resumable.begun", "resumable.completed", "resumable.committed",
}  # fmt: skip
"""Points of uploads and of goings-on, which have tests of their own."""
NEW = b"new content " * 9000


def change_of(fleet: Fleet, verb: str) -> Keyed:
    """A change of a file of its own."""
    stored = Keyed(fleet).send("ingester", params={"filename": "a", "retention": "temporary"})
    assert stored.status_code == 201
    path = f"/api/files/{stored.json()['file_id']}"
    if verb == "PATCH":
        return Keyed(
            fleet, verb, path, json.dumps({"tags": ["new"]}).encode(), {"headers": {"content-type": "application/json"}}
        )
    return Keyed(fleet, verb, path + "/content", NEW) if verb == "PUT" else Keyed(fleet, verb, path, b"")


def record_of(keyed: Keyed) -> dict[str, Any] | None:
    """From the element itself; None: gone."""
    path = keyed.path.removesuffix("/content")
    answer = keyed.fleet.call("GET", "se-01", path)
    assert answer.status_code in (200, 404), answer.text
    found: dict[str, Any] | None = answer.json() if answer.status_code == 200 else None
    return found


def done_once(keyed: Keyed, *answers: httpx.Response) -> None:
    found = record_of(keyed)
    if keyed.method == "DELETE":
        assert found is None
        assert {answer.status_code for answer in answers} <= {204}
        return
    assert found is not None
    assert found["revision"] == 2
    assert (found["tags"] == ["new"]) if keyed.method == "PATCH" else (found["size_bytes"] == len(NEW))
    for answer in answers:
        assert (answer.status_code, answer.json(), answer.headers["etag"]) == (200, found, '"2"')


def test_every_point_of_a_request_under_a_key_is_struck() -> None:
    named = set()
    for path in (ROOT / "ingester-module" / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint":
                named.add(ast.literal_eval(node.args[0]))
    assert named == POINTS.keys() | ELSEWHERE
    others = "".join(
        path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py") if path != Path(__file__)
    )
    assert all(f'"{point}' in others for point in ELSEWHERE)


@pytest.mark.parametrize(("verb", "point"), STRIKES)
def test_an_ingester_killed_anywhere_has_changed_the_file_once(
    fleet: Fleet, struck: str, verb: str, point: str
) -> None:
    start(fleet, struck, f"{point}:kill")
    keyed = change_of(fleet, verb)
    keyed.killed_at(struck)
    first = keyed.until_answered("ingester")
    assert (first.headers.get("idempotent-replayed") == "true") == POINTS[point]
    start(fleet, struck)
    again = keyed.until_answered(struck)
    same_answer(again, first)
    done_once(keyed, first, again)


@pytest.mark.parametrize(
    ("verb", "point"), [("PATCH", "change.made"), ("PUT", "key.pinned"), ("DELETE", "change.made")]
)
def test_the_same_ingester_started_again_goes_on(fleet: Fleet, struck: str, verb: str, point: str) -> None:
    start(fleet, struck, f"{point}:kill")
    keyed = change_of(fleet, verb)
    keyed.killed_at(struck)
    start(fleet, struck)
    done_once(keyed, keyed.until_answered(struck), keyed.until_answered("ingester"))


@pytest.mark.parametrize(
    ("verb", "point"),
    [("PATCH", "key.pinned"), ("PUT", "key.pinned"), ("PATCH", "key.claimed"), ("DELETE", "key.claimed")],
)
def test_an_ingester_that_wakes_after_it_was_taken_over_changes_nothing(
    fleet: Fleet, struck: str, verb: str, point: str
) -> None:
    start(fleet, struck, f"{point}:pause")
    keyed = change_of(fleet, verb)
    sleeping = keyed.beside(struck)
    eventually(lambda: sql(fleet, LEASE_OVER, keyed.key))
    first = keyed.until_answered("ingester")
    done_once(keyed, first)
    fleet.processes[struck].send_signal(signal.SIGCONT)
    woken = sleeping.ended()
    assert woken is not None
    assert woken.status_code in (404, 409), woken.text
    again = keyed.until_answered(struck)
    same_answer(again, first)
    done_once(keyed, again)


@pytest.mark.parametrize("verb", ["PATCH", "PUT"])
def test_an_attempt_continued_after_a_foreign_change_answers_that_the_outcome_is_unknown(
    fleet: Fleet, struck: str, verb: str
) -> None:
    start(fleet, struck, "change.made:kill")
    keyed = change_of(fleet, verb)
    keyed.killed_at(struck)
    theirs = Keyed(fleet, "PATCH", keyed.path.removesuffix("/content"), b'{"tags": ["theirs"]}')
    assert theirs.until_answered("ingester", headers={"content-type": "application/json"}).status_code == 200
    answer = told = keyed.send("ingester")
    while answer.json()["code"] == "idempotency_key_in_use":
        answer = told = keyed.send("ingester")
    assert (told.status_code, told.json()["code"], told.json()["revision"]) == (409, "conflict", 3)
    same_answer(keyed.send("ingester"), told)
    found = record_of(keyed)
    assert found is not None
    assert (found["revision"], found["tags"]) == (3, ["theirs"])


@pytest.mark.parametrize(("verb", "point"), [("PATCH", "update.published"), ("DELETE", "delete.removed")])
def test_a_change_whose_element_dies_in_it_is_queued_and_made_once(fleet: Fleet, verb: str, point: str) -> None:
    keyed = change_of(fleet, verb)
    fleet.stop("se-01")
    start(fleet, "se-01", f"{point}:kill")
    first = keyed.until_answered("ingester")
    assert first.status_code == 202, first.text
    assert fleet.processes.pop("se-01").wait(120) == -9
    same_answer(keyed.send("ingester"), first)
    start(fleet, "se-01")
    eventually(lambda: keyed.fleet.call("GET", "ingester", first.headers["location"]).json()["state"] == "committed")
    done_once(keyed)


def test_new_content_whose_element_dies_in_it_is_sent_again(fleet: Fleet) -> None:
    keyed = change_of(fleet, "PUT")
    fleet.stop("se-01")
    start(fleet, "se-01", "update.published:kill")
    assert keyed.send("ingester").status_code in (502, 503)
    assert fleet.processes.pop("se-01").wait(120) == -9
    start(fleet, "se-01")
    done_once(keyed, keyed.until_answered("ingester"), keyed.until_answered("ingester"))


@pytest.mark.parametrize("verb", ["PATCH", "DELETE"])
def test_an_admin_killed_when_it_has_queued_a_change_has_queued_it_once(fleet: Fleet, verb: str) -> None:
    keyed = change_of(fleet, verb)
    keyed.token = fleet.token(admin="admin-2")
    fleet.stop("se-01")
    fleet.stop("admin-1")
    fleet.start("admin-1", {"ARTSTORE_POINT": "admin.change_queued:kill"})
    fleet.ready("admin-1", "ingester")
    trying = keyed.beside("ingester")
    assert fleet.processes.pop("admin-1").wait(120) == -9
    assert trying.ended() is not None
    start(fleet, "admin-1")
    first = keyed.until_answered("ingester")
    assert (first.status_code, first.headers.get("idempotent-replayed")) == (202, "true"), first.text
    start(fleet, "se-01")
    eventually(
        lambda: fleet.call("GET", "ingester", first.headers["location"], keyed.token).json()["state"] == "committed"
    )
    done_once(keyed)
    assert len(sql(fleet, "SELECT 1 FROM sagas WHERE file_id = $1 AND kind <> 'upload'", first.json()["file_id"])) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_an_answer_that_could_not_be_kept_is_given_all_the_same(fleet: Fleet, struck: str, verb: str) -> None:
    start(fleet, struck, "change.made:pause")
    keyed = change_of(fleet, verb)
    keyed.token = fleet.token()
    trying = keyed.beside(struck)
    eventually(lambda: stopped(fleet, struck))
    fleet.postgres.stop()
    fleet.processes[struck].send_signal(signal.SIGCONT)
    first = trying.ended()
    fleet.start_postgres()
    assert first is not None
    again = keyed.until_answered("ingester")
    assert (again.status_code, again.content) == (first.status_code, first.content)
    done_once(keyed, first, again)


def stopped(fleet: Fleet, name: str) -> bool:
    """It has paused itself."""
    return Path(f"/proc/{fleet.processes[name].pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_large_new_content_given_again_is_compared_and_not_stored(fleet: Fleet) -> None:
    keyed = change_of(fleet, "PUT")
    keyed.content = os.urandom(1 << 20) * 64
    first = keyed.send("ingester")
    assert first.status_code == 200
    same_answer(keyed.send("ingester"), first)
    assert (
        keyed.send("ingester", content=keyed.content[:-1] + bytes([keyed.content[-1] ^ 1])).json()["code"]
        == "idempotency_key_reused"
    )
    found = record_of(keyed)
    assert found is not None
    assert found["revision"] == 2

"""Query, ingester and an element start again while admin, or PostgreSQL behind it, is away: reads and changes go on."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from support.fleet import Fleet, eventually, running_fleet
from support.layout import SMALL

AWAY = {"postgres": (), "admin": ("admin-1", "admin-2")}
CALLERS = ("ingester", "query")


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with running_fleet(SMALL) as started:
        yield started


@pytest.mark.parametrize("away", AWAY)
def test_modules_that_start_while_no_token_can_be_had_go_on_with_their_last_one(fleet: Fleet, away: str) -> None:
    token = fleet.token()
    kept, gone = (eventually(lambda: uploaded(fleet, token)) for _ in ("kept", "gone"))
    stop(fleet, away)
    try:
        for name in CALLERS:
            fleet.stop(name)
            fleet.start(name)
        eventually(lambda: answers(fleet, "GET", "query", f"/api/files/{kept}/content", token) == (200, b"the content"))
        eventually(lambda: answers(fleet, "GET", "ingester", "/health/live", token)[0] == 200)
        assert fleet.call("PATCH", "ingester", f"/api/files/{kept}", token, json={"tags": ["x"]}).status_code == 200
        assert fleet.call("DELETE", "ingester", f"/api/files/{gone}", token).status_code == 204
        assert fleet.call("GET", "query", f"/api/files/{kept}", token).json()["tags"] == ["x"]
        assert fleet.call("GET", "query", f"/api/files/{gone}/content", token).status_code == 404
        # An element that starts goes on with the files it has, and cannot tell yet what does not exist.
        fleet.stop("se-01")
        fleet.start("se-01")
        eventually(lambda: answers(fleet, "GET", "query", f"/api/files/{kept}/content", token) == (200, b"the content"))
        # A new instance has no token of before: it says so, and answers what needs none.
        fleet.stop("query")
        fleet.start("query", {"KEPT_TOKEN_FILE": ""})
        eventually(lambda: answers(fleet, "GET", "query", "/health/live", token)[0] == 200)
        without = fleet.call("GET", "query", f"/api/files/{kept}/content", token)
        assert (without.status_code, int(without.headers["retry-after"]) <= 5) == (503, True)
    finally:
        start(fleet, away)
    fleet.ready(*fleet.processes)
    eventually(lambda: answers(fleet, "GET", "query", f"/api/files/{kept}/content", token)[0] == 200)


def uploaded(fleet: Fleet, token: str) -> str:
    answer = fleet.upload(token, b"the content", retention="temporary")
    return str(answer.json()["file_id"]) if answer.status_code == 201 else ""


def answers(fleet: Fleet, method: str, name: str, path: str, token: str) -> tuple[int, bytes]:
    try:
        answer = fleet.call(method, name, path, token)
    except httpx.TransportError:
        return 0, b""
    return answer.status_code, answer.content


def stop(fleet: Fleet, away: str) -> None:
    if away == "postgres":
        fleet.postgres.discard()
    for name in AWAY[away]:
        fleet.stop(name)


def start(fleet: Fleet, away: str) -> None:
    if away == "postgres":
        fleet.start_postgres()
    for name in AWAY[away]:
        fleet.start(name)

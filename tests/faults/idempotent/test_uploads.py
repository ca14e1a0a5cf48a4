"""Uploads under an Idempotency-Key, struck at every point: there is one file, and every repeat names it."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.fleet import Fleet, eventually
from support.keyed import HELD, LEASE_OVER, LEASE_S, Keyed, same_answer, sql, start

from artstore.testing.services import start_postgres

POINTS = {"key.claimed": False, "upload.transferred": False, "upload.committed": True}
"""Failpoints of a first attempt in the ingester; True: the file is acknowledged by then, and a repeat only replays it."""
SIZES = [1000, 3 << 20]


def one_file_of(keyed: Keyed, *answers: httpx.Response) -> None:
    [file] = keyed.files()
    assert {answer.json()["file_id"] for answer in answers} == {file["file_id"]}
    assert file["revision"] == 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("point", POINTS)
def test_an_ingester_killed_anywhere_leaves_one_file(fleet: Fleet, struck: str, point: str, size: int) -> None:
    start(fleet, struck, f"{point}:kill")
    keyed = Keyed(fleet, content=os.urandom(size))
    keyed.killed_at(struck)
    first = keyed.until_answered("ingester")
    assert first.status_code == 201
    assert (first.headers.get("idempotent-replayed") == "true") == POINTS[point]
    start(fleet, struck)
    again = keyed.until_answered(struck)
    same_answer(again, first)
    one_file_of(keyed, first, again)


@pytest.mark.parametrize("point", POINTS)
def test_the_same_ingester_started_again_goes_on(fleet: Fleet, struck: str, point: str) -> None:
    start(fleet, struck, f"{point}:kill")
    keyed = Keyed(fleet)
    keyed.killed_at(struck)
    start(fleet, struck)
    one_file_of(keyed, keyed.until_answered(struck), keyed.until_answered("ingester"))


def test_a_taking_over_that_dies_too_is_taken_over(fleet: Fleet, struck: str) -> None:
    start(fleet, struck, "upload.transferred:kill")
    keyed = Keyed(fleet)
    keyed.killed_at(struck)
    start(fleet, struck, "key.taken_over:kill")
    eventually(lambda: sql(fleet, LEASE_OVER, keyed.key))
    keyed.killed_at(struck)
    one_file_of(keyed, keyed.until_answered("ingester"))


def test_an_ingester_killed_on_its_way_to_the_next_element_leaves_one_file(fleet: Fleet, struck: str) -> None:
    start(fleet, struck, "key.moved:kill")
    keyed = Keyed(fleet)
    fleet.stop("se-02", signal.SIGKILL)
    keyed.killed_at(struck)
    first = keyed.until_answered("ingester")
    assert first.json()["storage_element_id"] == "se-04"
    start(fleet, "se-02")
    one_file_of(keyed, first, keyed.until_answered("ingester"))


@pytest.mark.parametrize("point", POINTS)
def test_an_ingester_that_wakes_after_it_was_taken_over_makes_no_second_file(
    fleet: Fleet, struck: str, point: str
) -> None:
    start(fleet, struck, f"{point}:pause")
    keyed = Keyed(fleet, content=os.urandom(1 << 20))
    sleeping = keyed.beside(struck)
    eventually(lambda: sql(fleet, LEASE_OVER, keyed.key))  # claimed, and the lease is over
    first = keyed.until_answered("ingester")
    one_file_of(keyed, first)
    fleet.processes[struck].send_signal(signal.SIGCONT)
    woken = sleeping.ended()
    assert woken is not None
    if POINTS[point]:
        assert (woken.status_code, woken.content) == (201, first.content)
    else:
        assert woken.status_code in (409, 503), woken.text
    one_file_of(keyed, keyed.until_answered(struck))


@pytest.mark.parametrize(("point", "done"), [("admin.commit_prepared", False), ("admin.committed", True)])
def test_an_admin_killed_in_its_commit_leaves_one_file(fleet: Fleet, point: str, done: bool) -> None:
    fleet.stop("admin-1")
    fleet.start("admin-1", {"ARTSTORE_POINT": f"{point}:kill"})
    fleet.ready("admin-1")
    fleet.ready("ingester")
    keyed = Keyed(fleet, token=fleet.token(admin="admin-2"))
    trying = keyed.beside("ingester")
    assert fleet.processes.pop("admin-1").wait(120) == -9
    answer = trying.ended()
    assert answer is not None
    assert answer.status_code in (201, 502, 503)
    fleet.start("admin-1")
    fleet.ready("admin-1")
    one_file_of(keyed, keyed.until_answered("ingester"))


def test_an_element_killed_in_the_middle_leaves_one_file(fleet: Fleet) -> None:
    # The ingester refuses uploads until it has noticed that the admin of the test before is back.
    eventually(lambda: fleet.upload(fleet.token()).status_code == 201)
    fleet.stop("se-02")
    fleet.start("se-02", {"ARTSTORE_POINT": "put.published:kill"})
    fleet.ready("se-02")
    keyed = Keyed(fleet, content=os.urandom(1 << 20))
    assert keyed.send("ingester").status_code in (502, 503)
    assert fleet.processes.pop("se-02").wait(120) == -9
    fleet.start("se-02")
    fleet.ready("se-02")
    one_file_of(keyed, keyed.until_answered("ingester"))


def test_a_client_that_breaks_off_may_send_again(fleet: Fleet) -> None:
    keyed = Keyed(fleet, content=os.urandom(1 << 20), token=fleet.token())
    lines = [
        f"POST /api/files/upload?filename=a.bin&tags=%5B%22{keyed.tag}%22%5D HTTP/1.1", "Host: x", "Content-Length: 1048576",
        f"Authorization: Bearer {keyed.token}", f"Idempotency-Key: {keyed.key}", "Content-Type: application/octet-stream",
    ]  # fmt: skip
    with socket.create_connection(("127.0.0.1", fleet.ports["ingester"])) as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode() + keyed.content[: 512 << 10])
        eventually(lambda: sql(fleet, HELD, keyed.key))
    first = keyed.until_answered("ingester")
    assert "idempotent-replayed" not in first.headers
    one_file_of(keyed, first, keyed.until_answered("ingester"))


def test_of_two_at_once_one_runs(fleet: Fleet, struck: str) -> None:
    start(fleet, struck, "upload.transferred:pause")
    keyed = Keyed(fleet)
    running = keyed.beside(struck)
    eventually(lambda: sql(fleet, HELD, keyed.key))
    refused = keyed.send("ingester")
    assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_key_in_use")
    assert 1 <= int(refused.headers["retry-after"]) <= LEASE_S
    fleet.processes[struck].send_signal(signal.SIGCONT)
    first = running.ended()
    assert first is not None
    if first.status_code == 201:
        same_answer(keyed.send("ingester"), first)
    one_file_of(keyed, keyed.until_answered("ingester"))


def test_of_many_at_once_at_two_ingesters_one_stores_the_file(fleet: Fleet, struck: str) -> None:
    start(fleet, struck)
    keyed = Keyed(fleet, token=fleet.token())
    answers = [one.ended() for one in [keyed.beside(("ingester", struck)[number % 2]) for number in range(12)]]
    statuses = [answer.status_code for answer in answers if answer is not None]
    assert len(statuses) == 12
    assert set(statuses) <= {201, 409}
    stored = [answer for answer in answers if answer is not None and answer.status_code == 201]
    assert sum("idempotent-replayed" not in answer.headers for answer in stored) == 1
    one_file_of(keyed, *stored)


def test_a_lease_is_renewed_while_an_upload_takes_its_time(fleet: Fleet) -> None:
    keyed = Keyed(fleet, token=fleet.token())
    pause = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield bytes(256 << 10)
        pause.wait(120)
        yield b"end"

    running = keyed.beside("ingester", content=slowly())
    eventually(lambda: sql(fleet, HELD, keyed.key))
    began = sql(fleet, "SELECT held_until FROM idempotency_keys WHERE key = $1", keyed.key)[0]["held_until"]
    eventually(
        lambda: sql(fleet, "SELECT 1 FROM idempotency_keys WHERE held_until > $1::timestamptz + interval '3 s'", began)
    )
    assert keyed.send("ingester", content=b"x").status_code == 409
    pause.set()
    first = running.ended()
    assert first is not None
    assert first.status_code == 201


def test_a_key_is_one_request_of_one_account(fleet: Fleet) -> None:
    keyed = Keyed(fleet)
    first = keyed.send("ingester")
    for changed in (
        {"content": b"CONTENT"},
        {"content": b"content."},
        {"params": {"filename": "b.bin"}},
        {"headers": {"content-type": "a/b"}},
    ):
        other = keyed.send("ingester", **changed)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused"), changed
    same_answer(keyed.send("ingester"), first)
    account = fleet.new_account()
    theirs = Keyed(
        fleet,
        key=keyed.key,
        tag=keyed.tag,
        token=fleet.token({name: account[name] for name in ("client_id", "client_secret")}),
    )
    assert theirs.send("ingester").status_code == 201
    assert len(keyed.files()) == 2


def test_a_replay_of_a_large_upload_stores_nothing_and_needs_no_room(fleet: Fleet) -> None:
    size = 128 << 20
    keyed = Keyed(fleet, content=os.urandom(1 << 20) * (size >> 20))
    first = keyed.send("ingester")
    assert first.status_code == 201
    stored = files_on(fleet, "se-02")
    resident = resident_bytes(fleet, "ingester")
    Path(f"/proc/{fleet.processes['ingester'].pid}/clear_refs").write_text("5")  # the peak begins here
    same_answer(keyed.send("ingester"), first)
    # Compensations of earlier tests may remove files meanwhile; a replay must not add one.
    assert first.json()["file_id"] in files_on(fleet, "se-02") <= stored
    assert peak_bytes(fleet, "ingester") < resident + (32 << 20)
    assert keyed.send("ingester", content=keyed.content[:-1] + bytes([keyed.content[-1] ^ 1])).status_code == 422


def test_with_postgresql_away_only_requests_with_a_key_are_refused(fleet: Fleet) -> None:
    keyed, token = Keyed(fleet, token=fleet.token()), fleet.token()
    fleet.postgres.stop()
    try:
        refused = keyed.send("ingester")
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert "retry-after" in refused.headers
        assert fleet.call("PATCH", "ingester", "/api/files/no-id", token, json={}).status_code == 404
    finally:
        fleet.postgres = start_postgres(fleet.folder, fleet.postgres.port)
    one_file_of(keyed, keyed.until_answered("ingester"))


def test_in_the_end_nothing_is_left_open_and_no_disk_has_a_file_too_many(fleet: Fleet) -> None:
    eventually(lambda: not sql(fleet, "SELECT 1 FROM sagas WHERE due_at IS NOT NULL"))
    eventually(lambda: not sql(fleet, "SELECT 1 FROM files WHERE state = 'pending'"))
    promised = sorted(row["file_id"] for row in sql(fleet, "SELECT file_id::text FROM files"))
    elements = [name for name in fleet.names if name.startswith("se-")]
    assert sorted(file_id for name in elements for file_id in files_on(fleet, name)) == promised


def files_on(fleet: Fleet, element: str) -> set[str]:
    """The ids of the data files on an element's disk."""
    paths = (fleet.folder / element / "files").rglob("*")
    return {path.name for path in paths if path.is_file() and path.suffix != ".json"}


def resident_bytes(fleet: Fleet, name: str) -> int:
    return _status(fleet, name, "VmRSS")


def peak_bytes(fleet: Fleet, name: str) -> int:
    return _status(fleet, name, "VmHWM")


def _status(fleet: Fleet, name: str, field: str) -> int:
    status = Path(f"/proc/{fleet.processes[name].pid}/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024

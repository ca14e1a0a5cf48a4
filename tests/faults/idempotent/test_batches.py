"""Batches under an Idempotency-Key, struck at every point: there is one file for each part, and every repeat names them."""

from __future__ import annotations

import os
import signal
import socket

import httpx
import pytest
from support.fleet import Fleet, eventually
from support.keyed import HELD, LEASE_OVER, Keyed, same_answer, sql, start

POINTS = {"key.claimed": False, "batch.transferred": False, "batch.committed": True}
"""As those of uploads."""
SIZES = (0, 10, 100_000, 1000, 2 << 20, 5)
SMALL_FILES = 40
"""More than one request to an element takes."""


def batch_of(fleet: Fleet) -> Keyed:
    keyed = Keyed(fleet, path="/api/files/batch")
    parts = []
    for size in (*SIZES, *[20] * SMALL_FILES):
        attributes = b'{"tags": ["%b"]}' % keyed.tag.encode()
        parts += [b'--X\r\nContent-Disposition: form-data; name="attributes"\r\n\r\n', attributes, b"\r\n"]
        parts += [
            b'--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n',
            os.urandom(size),
            b"\r\n",
        ]
    keyed.content = b"".join([*parts, b"--X--\r\n"])
    keyed.options = {"headers": {"content-type": "multipart/form-data; boundary=X"}}
    return keyed


def files_of(keyed: Keyed, *answers: httpx.Response) -> None:
    """One visible file for each part, all of them named in each answer, and whole."""
    visible = {file["file_id"] for file in keyed.files()}
    assert len(visible) == len(SIZES) + SMALL_FILES
    for answer in answers:
        results = answer.json()["results"]
        assert {result["status"] for result in results} == {201}
        assert {result["file"]["file_id"] for result in results} == visible
    records = [result["file"] for result in answers[0].json()["results"]]
    assert [record["size_bytes"] for record in records[: len(SIZES)]] == list(SIZES)
    token = keyed.fleet.token()
    for record in records[: len(SIZES)]:
        read = keyed.fleet.call("GET", "query", f"/api/files/{record['file_id']}/content", token)
        assert (read.status_code, len(read.content)) == (200, record["size_bytes"])


@pytest.mark.parametrize("point", POINTS)
def test_an_ingester_killed_anywhere_leaves_each_file_once(fleet: Fleet, struck: str, point: str) -> None:
    start(fleet, struck, f"{point}:kill")
    keyed = batch_of(fleet)
    keyed.killed_at(struck)
    assert bool(keyed.files()) == POINTS[point], "all or none, before it is sent again"
    first = keyed.until_answered("ingester")
    assert (first.headers.get("idempotent-replayed") == "true") == POINTS[point]
    start(fleet, struck)
    again = keyed.until_answered(struck)
    same_answer(again, first)
    files_of(keyed, first, again)


@pytest.mark.parametrize("point", POINTS)
def test_an_ingester_that_wakes_after_it_was_taken_over_stores_nothing(fleet: Fleet, struck: str, point: str) -> None:
    start(fleet, struck, f"{point}:pause")
    keyed = batch_of(fleet)
    sleeping = keyed.beside(struck)
    eventually(lambda: sql(fleet, LEASE_OVER, keyed.key))
    first = keyed.until_answered("ingester")
    files_of(keyed, first)
    fleet.processes[struck].send_signal(signal.SIGCONT)
    woken = sleeping.ended()
    assert woken is not None
    assert (woken.content == first.content) if POINTS[point] else (woken.status_code in (409, 503)), woken.text
    files_of(keyed, first)


@pytest.mark.parametrize("point", ["admin.commit_prepared", "admin.committed"])
def test_an_admin_killed_in_the_commit_leaves_each_file_once(fleet: Fleet, point: str) -> None:
    fleet.stop("admin-1")
    start(fleet, "admin-1", f"{point}:kill")
    fleet.ready("ingester")
    keyed = batch_of(fleet)
    keyed.token = fleet.token(admin="admin-2")
    trying = keyed.beside("ingester")
    assert fleet.processes.pop("admin-1").wait(120) == -9
    answer = trying.ended()
    assert answer is not None
    assert answer.status_code in (200, 502, 503)
    start(fleet, "admin-1")
    files_of(keyed, keyed.until_answered("ingester"))


@pytest.mark.parametrize("point", ["put.small.published", "put.published"])
def test_an_element_killed_in_the_middle_leaves_each_file_once(fleet: Fleet, point: str) -> None:
    """Its files go to the next element, or the batch is sent again; a file that broke off cannot be sent again within it."""
    eventually(lambda: fleet.upload(fleet.token()).json().get("storage_element_id") == "se-02")
    fleet.stop("se-02")
    start(fleet, "se-02", f"{point}:kill")
    keyed = batch_of(fleet)
    answer = keyed.send("ingester")
    assert fleet.processes.pop("se-02").wait(120) == -9
    start(fleet, "se-02")
    assert answer.status_code in (200, 502, 503), answer.text
    stored = [one for one in answer.json().get("results", ()) if one["status"] == 201]
    assert {one["file"]["file_id"] for one in stored} == {file["file_id"] for file in keyed.files()}


def test_a_body_that_breaks_off_leaves_nothing(fleet: Fleet) -> None:
    eventually(lambda: fleet.upload(fleet.token()).status_code == 201)
    keyed = batch_of(fleet)
    keyed.token = fleet.token()
    lines = [
        "POST /api/files/batch HTTP/1.1", "Host: x", f"Content-Length: {len(keyed.content)}",
        f"Authorization: Bearer {keyed.token}", f"Idempotency-Key: {keyed.key}",
        "Content-Type: multipart/form-data; boundary=X",
    ]  # fmt: skip
    with socket.create_connection(("127.0.0.1", fleet.ports["ingester"])) as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode() + keyed.content[:-10])
        eventually(lambda: sql(fleet, HELD, keyed.key))
    eventually(lambda: not sql(fleet, "SELECT 1 FROM files WHERE tags @> $1", [keyed.tag]))
    first = keyed.until_answered("ingester")
    assert "idempotent-replayed" not in first.headers
    files_of(keyed, first, keyed.until_answered("ingester"))

"""A short upload is begun by its commit: between its transfer and its commit admin does not know its saga. Whatever dies or
sleeps there, the file becomes visible to all, or nothing of it stays."""

from __future__ import annotations

import secrets
import signal
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from support.fleet import Fleet, eventually, running_fleet
from support.keyed import sql, start

SAGA_LEASE_S = "4"
"""A file without a saga counts as orphaned after two leases."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with running_fleet(settings={"SAGA_LEASE_S": SAGA_LEASE_S}) as started:
        yield started


@pytest.fixture
def struck(fleet: Fleet) -> Iterator[str]:
    """The name of a second ingester."""
    yield "ingester-2"
    if "ingester-2" in fleet.processes:
        fleet.stop("ingester-2", signal.SIGKILL)


class Upload(threading.Thread):
    """Sent beside the test; `answer` stays None when the connection ends without one."""

    def __init__(self, fleet: Fleet, at: str) -> None:
        super().__init__(daemon=True)
        self.fleet, self.at, self.tag = fleet, at, secrets.token_hex(8)
        self.answer: httpx.Response | None = None
        self._token = fleet.token(admin="admin-2")
        self.start()

    def run(self) -> None:
        params = {"filename": "a", "tags": f'["{self.tag}"]'}
        headers = {"content-type": "application/octet-stream"}
        try:
            self.answer = self.fleet.call(
                "POST", self.at, "/api/files/upload", self._token, params=params, content=b"content", headers=headers
            )
        except httpx.TransportError:
            pass

    def ended(self) -> httpx.Response | None:
        self.join(120)
        assert not self.is_alive()
        return self.answer

    def rows(self) -> list[dict[str, Any]]:
        return sql(self.fleet, "SELECT file_id::text, state FROM files WHERE tags @> $1", [self.tag])


def saga_state(fleet: Fleet, file_id: str) -> str | None:
    rows = sql(fleet, "SELECT state FROM sagas WHERE file_id = $1::text::uuid", file_id)
    return rows[0]["state"] if rows else None


def nothing_stays(upload: Upload, file_id: str) -> bool:
    on_disk = any((upload.fleet.folder / "se-02" / "files").rglob(f"{file_id}*"))
    return not upload.rows() and not on_disk


def the_transferred_row(upload: Upload) -> dict[str, Any]:
    [row] = eventually(upload.rows)
    assert row["state"] == "pending"
    assert saga_state(upload.fleet, row["file_id"]) is None, "not begun"
    return row


def test_an_ingester_killed_before_its_commit_leaves_nothing(fleet: Fleet, struck: str) -> None:
    start(fleet, struck, "upload.transferred:kill")
    upload = Upload(fleet, struck)
    assert upload.ended() is None
    row = the_transferred_row(upload)
    eventually(partial(nothing_stays, upload, row["file_id"]))
    assert eventually(lambda: saga_state(fleet, row["file_id"])) in ("compensating", "compensated")


def test_an_ingester_killed_before_the_commit_of_a_batch_leaves_nothing(fleet: Fleet, struck: str) -> None:
    start(fleet, struck, "batch.transferred:kill")
    tag = secrets.token_hex(8)
    part = '--X\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    parts = [
        part.format("attributes", f'{{"tags": ["{tag}"]}}') + part.format("file", "x" * size)
        for size in (1, 2, 100_000)
    ]
    headers = {"content-type": "multipart/form-data; boundary=X"}
    with pytest.raises(httpx.TransportError):
        fleet.call("POST", struck, "/api/files/batch", content="".join([*parts, "--X--\r\n"]), headers=headers)
    records = fleet.folder / "se-02" / "files"
    eventually(lambda: len(sql(fleet, "SELECT 1 FROM files WHERE state = 'pending' AND tags @> $1", [tag])) == 3)
    eventually(lambda: not sql(fleet, "SELECT 1 FROM files WHERE tags @> $1", [tag]))
    eventually(lambda: not any(tag in one.read_text() for one in records.rglob("*.attr.json")))


def test_a_commit_after_the_undo_is_refused(fleet: Fleet, struck: str) -> None:
    start(fleet, struck, "upload.transferred:pause")
    upload = Upload(fleet, struck)
    row = the_transferred_row(upload)
    eventually(partial(nothing_stays, upload, row["file_id"]))
    fleet.processes[struck].send_signal(signal.SIGCONT)
    answer = upload.ended()
    assert answer is not None
    assert answer.status_code == 503, answer.text
    assert nothing_stays(upload, row["file_id"])


@pytest.mark.parametrize("point", ["admin.commit_prepared", "admin.committed"])
def test_an_admin_killed_in_its_commit_leaves_the_whole_file_or_nothing(fleet: Fleet, point: str) -> None:
    fleet.stop("admin-1")
    fleet.start("admin-1", {"ARTSTORE_POINT": f"{point}:kill"})
    fleet.ready("admin-1", "ingester")
    upload = Upload(fleet, "ingester")
    assert fleet.processes.pop("admin-1").wait(120) == -9
    [row] = eventually(upload.rows)
    assert row["state"] == ("pending" if point == "admin.commit_prepared" else "available")
    fleet.start("admin-1")
    fleet.ready("admin-1", "ingester")
    answer = upload.ended()
    assert answer is not None
    if answer.status_code == 201:
        [row] = upload.rows()
        assert (row["state"], saga_state(fleet, row["file_id"])) == ("available", "committed")
    else:
        assert answer.status_code == 503, answer.text
        eventually(partial(nothing_stays, upload, row["file_id"]))


@pytest.mark.parametrize("point", ["put.small.data_written", "put.published"])
def test_an_element_killed_before_its_answer_leaves_nothing(fleet: Fleet, point: str) -> None:
    fleet.stop("se-02")
    start(fleet, "se-02", f"{point}:kill")
    upload = Upload(fleet, "ingester")
    assert fleet.processes.pop("se-02").wait(120) == -9
    answer = upload.ended()
    assert answer is not None
    assert answer.status_code in (502, 503), answer.text
    start(fleet, "se-02")
    eventually(lambda: not upload.rows())
    records = fleet.folder / "se-02" / "files"
    eventually(lambda: not any(upload.tag in one.read_text() for one in records.rglob("*.attr.json")))


def test_an_element_killed_before_it_has_written_the_row_knows_the_file_still(fleet: Fleet, struck: str) -> None:
    """The ingester died too, so only the element's log names the upload."""
    fleet.stop("se-02")
    start(fleet, "se-02", "late.found:kill")
    assert Upload(fleet, "ingester").ended() is not None  # the first one finds out that the catalog answers
    start(fleet, struck, "upload.transferred:kill")
    upload = Upload(fleet, struck)
    assert upload.ended() is None
    assert fleet.processes.pop("se-02").wait(120) == -9
    assert not upload.rows()
    start(fleet, "se-02")
    row = the_transferred_row(upload)
    eventually(partial(nothing_stays, upload, row["file_id"]))

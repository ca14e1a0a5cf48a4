"""A resumable upload continues after kill -9 of the ingester or of the element at every step, and becomes one file."""

from __future__ import annotations

import base64
import secrets
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from support.fleet import Fleet, eventually, running_fleet
from support.keyed import sql, start

SAGA_LEASE_S = "4"
TUS = {"tus-resumable": "1.0.0", "content-type": "application/offset+octet-stream"}
HALF = 100_000


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


class Upload:
    """Half of it is acknowledged."""

    def __init__(self, fleet: Fleet, **metadata: str) -> None:
        self.fleet, self.tag, self.content = fleet, secrets.token_hex(8), secrets.token_bytes(2 * HALF)
        self._token = fleet.token()
        pairs = {"tags": _base64(f'["{self.tag}"]'), **metadata}
        described = ",".join(f"{key} {value}" for key, value in pairs.items())
        made = self.ask("POST", "/api/uploads", {"upload-length": str(2 * HALF), "upload-metadata": described})
        assert made.status_code == 201, made.text
        self.path = made.headers["location"]
        assert self.patch(0, self.content[:HALF]).status_code == 204

    def ask(
        self, method: str, path: str, headers: dict[str, str], content: bytes = b"", at: str = "ingester"
    ) -> httpx.Response:
        return self.fleet.call(method, at, path, self._token, headers={**TUS, **headers}, content=content)

    def patch(self, offset: int, content: bytes, at: str = "ingester") -> httpx.Response:
        return self.ask("PATCH", self.path, {"upload-offset": str(offset)}, content, at)

    def send_rest(self, at: str = "ingester") -> httpx.Response | None:
        """None when the ingester dies."""
        try:
            return self.patch(HALF, self.content[HALF:], at)
        except httpx.TransportError:
            return None

    def head(self) -> httpx.Response | None:
        answer = self.ask("HEAD", self.path, {})
        return answer if answer.status_code == 200 else None

    def require_one_file(self, file_id: str) -> None:
        [row] = sql(self.fleet, "SELECT file_id::text, state FROM files WHERE tags @> $1", [self.tag])
        assert (row["file_id"], row["state"]) == (file_id, "available")
        got = self.fleet.call("GET", "query", f"/api/files/{file_id}/content", self._token)
        assert got.content == self.content
        assert self.saga_state(file_id) == "committed"

    def saga_state(self, file_id: str) -> str | None:
        rows = sql(self.fleet, "SELECT state FROM sagas WHERE file_id = $1::text::uuid AND kind = 'upload'", file_id)
        return rows[0]["state"] if rows else None

    def rows(self) -> list[dict[str, Any]]:
        return sql(self.fleet, "SELECT file_id::text, state FROM files WHERE tags @> $1", [self.tag])


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("point", ["resumable.begun", "resumable.completed", "resumable.committed"])
def test_an_ingester_killed_while_it_completes(fleet: Fleet, struck: str, point: str) -> None:
    upload = Upload(fleet)
    start(fleet, struck, f"{point}:kill")
    assert upload.send_rest(struck) is None
    found = eventually(upload.head)
    assert found.headers["upload-offset"] == str(2 * HALF)
    upload.require_one_file(found.headers["x-artstore-file-id"])


def test_a_completion_whose_lease_ended_is_made_again(fleet: Fleet, struck: str) -> None:
    upload = Upload(fleet)
    start(fleet, struck, "resumable.completed:kill")
    assert upload.send_rest(struck) is None
    [row] = upload.rows()
    eventually(lambda: upload.saga_state(row["file_id"]) == "compensated")
    found = eventually(upload.head)
    assert found.headers["x-artstore-file-id"] != row["file_id"]
    upload.require_one_file(found.headers["x-artstore-file-id"])


def test_a_file_that_was_deleted_after_its_commit_does_not_come_back(fleet: Fleet, struck: str) -> None:
    upload = Upload(fleet, retention=_base64("temporary"))
    start(fleet, struck, "resumable.committed:kill")
    assert upload.send_rest(struck) is None
    [row] = upload.rows()
    eventually(
        lambda: fleet.call("DELETE", "ingester", f"/api/files/{row['file_id']}", upload._token).status_code == 204
    )
    found = eventually(upload.head)
    assert found.headers["x-artstore-file-id"] == row["file_id"]
    assert upload.rows() == []


@pytest.mark.parametrize(
    "point",
    [
        "resumable.written",
        "resumable.synced",
        "resumable.recorded",
        "resumable.linked",
        "put.noted",
        "resumable.settled",
    ],
)
def test_an_element_killed_at_any_step(fleet: Fleet, point: str) -> None:
    upload = Upload(fleet)
    fleet.stop("se-02")
    start(fleet, "se-02", f"{point}:kill")
    answer = upload.send_rest()
    assert answer is not None
    assert answer.status_code in (502, 503), answer.text
    assert fleet.processes.pop("se-02").wait(120) == -9
    start(fleet, "se-02")
    found = eventually(upload.head)
    offset = int(found.headers["upload-offset"])
    assert offset in (HALF, 2 * HALF)
    if offset == HALF:
        found = eventually(partial(_continued, upload))
    upload.require_one_file(found.headers["x-artstore-file-id"])


def _continued(upload: Upload) -> httpx.Response | None:
    answer = upload.send_rest()
    return answer if answer is not None and answer.status_code == 204 else upload.head()


def test_the_upload_of_a_closed_element_is_not_found_by_head(fleet: Fleet) -> None:
    """The last test here: a mode does not go back."""
    upload, finished = Upload(fleet), Upload(fleet)
    assert finished.send_rest() is not None
    closed = fleet.call("POST", "admin-1", "/api/storage-elements/se-02/mode", json={"mode": "ro"})
    assert closed.status_code == 200, closed.text

    assert eventually(lambda: upload.ask("HEAD", upload.path, {}).status_code == 404)
    refused = upload.send_rest()
    assert refused is not None
    assert (refused.status_code, refused.json()["code"]) == (409, "mode_forbids")
    assert upload.ask("GET", upload.path, {}).json()["offset"] == HALF
    assert finished.head() is not None, "a finished upload still names its file"
    assert upload.ask("DELETE", upload.path, {}).status_code == 204

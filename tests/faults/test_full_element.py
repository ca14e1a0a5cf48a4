"""Two elements of which one fills up while the registry still has the space that it had at its start. Uploads go to the other
one; at most the one upload that shows it is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
import pytest
from support.fleet import Fleet, running_fleet

MIB = 1 << 20
FIRST, SECOND = "se-02", "se-04"
QUOTAS = {FIRST: 48 * MIB, SECOND: 48 * MIB - 1}
SPACE = {"STORAGE_RESERVE_BYTES": "0", "ELEMENT_ANNOUNCE_EVERY_S": "3600", "ELEMENT_AWAY_AFTER_S": "7200"}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    own = {name: {"STORAGE_QUOTA_BYTES": str(quota)} for name, quota in QUOTAS.items()}
    with running_fleet(("admin-1", FIRST, SECOND, "ingester"), SPACE, own_settings=own) as started:
        yield started


def believed_bytes(fleet: Fleet) -> int:
    """The space of the first element, as the registry has it."""
    items = fleet.call("GET", "admin-1", "/api/storage-elements").json()["items"]
    return next(int(item["capacity"]["available_bytes"]) for item in items if item["id"] == FIRST)


def in_chunks(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), MIB):
        yield content[start : start + MIB]


def send_chunked(fleet: Fleet, token: str, content: bytes) -> httpx.Response:
    headers = {"content-type": "application/octet-stream"}
    return fleet.call("POST", "ingester", "/api/files/upload", token, content=in_chunks(content), headers=headers)


def send_raw(fleet: Fleet, token: str, content: bytes) -> str:
    answer = fleet.upload(token, content)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["storage_element_id"])


def send_form(fleet: Fleet, token: str, content: bytes) -> str:
    answer = fleet.call("POST", "ingester", "/api/files/upload", token, files={"file": ("a", content)})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["storage_element_id"])


def send_batch(fleet: Fleet, token: str, content: bytes) -> str:
    answer = fleet.call("POST", "ingester", "/api/files/batch", token, files=[("file", ("a", content))])
    (result,) = answer.json()["results"]
    assert result["status"] == 201, result
    return str(result["file"]["storage_element_id"])


def begin_resumable(fleet: Fleet, token: str, content: bytes) -> str:
    headers = {"tus-resumable": "1.0.0", "upload-length": str(len(content))}
    answer = fleet.call("POST", "ingester", "/api/uploads", token, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.headers["location"].rpartition(".")[2]


def test_uploads_go_to_the_element_with_space_as_soon_as_the_first_is_full(fleet: Fleet) -> None:
    token = fleet.token()
    assert believed_bytes(fleet) == QUOTAS[FIRST]
    # A body without any length can only be refused when it has come, and cannot be sent again.
    content, refused = os.urandom(26 * MIB), 0
    stored: list[str] = []
    while len(stored) < 2:
        answer = send_chunked(fleet, token, content)
        if answer.status_code == 201:
            stored.append(answer.json()["storage_element_id"])
        else:
            assert (answer.status_code, stored, refused) == (507, [FIRST], 0), answer.text
            refused += 1
    assert stored == [FIRST, SECOND]
    # The others are refused before their bytes are sent: no client notices.
    for send in (send_form, send_batch, send_raw, begin_resumable):
        content = os.urandom(believed_bytes(fleet) * 11 // 20)
        assert (send_raw(fleet, token, content), send(fleet, token, content)) == (FIRST, SECOND), send
        assert believed_bytes(fleet) < len(content)

"""Signed links of a running system: made by query, signed by admin, void with their account."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from support.system import System

CONTENT = os.urandom(300_000)


@pytest.fixture(scope="module")
def file_id(system: System) -> str:
    with system.client() as client:
        stored = client.post(
            f"{system.url('ingester')}/api/files/upload", params={"filename": "a.pdf"}, content=CONTENT
        )
        return str(stored.json()["file_id"])


def make(system: System, token: str, file_id: str, **wanted: Any) -> str:
    with system.client(token) as client:
        made = client.post(f"{system.url('query')}/api/files/{file_id}/links", json=wanted)
    assert made.status_code == 201, made.text
    assert made.json()["url"].startswith(f"{system.url('query')}/api/links/")
    return str(made.json()["url"])


def eventually(holds: Callable[[], Any]) -> Any:
    for _ in range(1200):
        if found := holds():
            return found
        time.sleep(0.1)
    raise AssertionError("never")


def test_a_link_reads_until_its_account_is_suspended(system: System, client: httpx.Client, file_id: str) -> None:
    account = client.post(f"{system.url('admin')}/api/service-accounts", json={"role": "USER"}).json()
    token = system.token(account["client_id"], account["client_secret"])
    url = make(system, token, file_id, ttl_s=600, disposition="inline")
    whole = httpx.get(url)
    assert (whole.status_code, whole.content) == (200, CONTENT)
    assert whole.headers["content-disposition"].startswith("inline;")
    part = httpx.get(url, headers={"range": "bytes=-5"})
    assert (part.status_code, part.content) == (206, CONTENT[-5:])
    assert httpx.head(url).headers["content-length"] == str(len(CONTENT))
    assert httpx.get(url[:-4] + "AAAA").status_code == 403  # is counted apart from the refusal below
    path = f"{system.url('admin')}/api/service-accounts/{account['id']}"
    assert client.patch(path, json={"suspended": True}).status_code == 200
    refused = eventually(lambda: (answer := httpx.get(url)).status_code == 403 and answer)
    assert refused.json()["code"] == "link_refused"

    def audited() -> dict[str, Any]:
        params = {"resource": file_id, "user_id": account["id"]}
        found = client.get(f"{system.url('admin')}/api/audit", params=params).json()["items"]
        return {event["action"]: event for event in found if event["action"].startswith("link:")}

    events = eventually(lambda: len(found := audited()) == 2 and found)
    assert (events["link:create"]["result"], events["link:use"]["result"]) == ("success", "denied")
    made = events["link:create"]["metadata"]
    assert (made["disposition"], made["file_size"]) == ("inline", len(CONTENT))
    assert url.rpartition("/")[2] not in str(events)


def test_a_link_outlives_the_move_of_its_file(system: System, client: httpx.Client) -> None:
    """PATCH {"retention": "permanent"} moves it to another element."""
    upload = f"{system.url('ingester')}/api/files/upload"
    file = client.post(upload, params={"filename": "a.txt", "retention": "temporary"}, content=CONTENT).json()
    url, path = make(system, system.token(), file["file_id"]), f"/api/files/{file['file_id']}"
    changed = client.patch(f"{system.url('ingester')}{path}", json={"retention": "permanent"})
    assert changed.status_code == 202, changed.text

    def has_moved() -> bool:
        assert httpx.get(url).content == CONTENT, "at each moment"
        now = client.get(f"{system.url('query')}{path}").json()
        return bool(now["storage_element_id"] != file["storage_element_id"])

    assert eventually(has_moved)
    assert httpx.get(url).content == CONTENT


def test_a_rotation_of_the_link_key_ends_all_links(system: System, client: httpx.Client, file_id: str) -> None:
    url = make(system, system.token(), file_id)
    assert httpx.get(url).status_code == 200
    rotated = client.post(f"{system.url('admin')}/api/auth/keys/rotate", params={"kind": "links"})
    assert rotated.status_code == 200
    eventually(lambda: httpx.get(url).status_code == 403)
    assert eventually(lambda: httpx.get(make(system, system.token(), file_id)).status_code == 200)


def test_only_who_may_read_makes_links(system: System, file_id: str) -> None:
    with system.client(system.token(**system.new_account("AUDITOR"))) as auditor:
        assert auditor.post(f"{system.url('query')}/api/files/{file_id}/links", json={}).status_code == 403
    assert httpx.post(f"{system.url('query')}/api/files/{file_id}/links", json={}).status_code == 401

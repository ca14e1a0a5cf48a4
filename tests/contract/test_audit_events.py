"""Audit events as the specification states them: `noun:verb`, the account's id, the bare id of the resource, the result."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from support.system import System

ACTION = re.compile(r"[a-z]+:[a-z-]+")


@pytest.fixture
def events(system: System, client: httpx.Client) -> Callable[..., list[Any]]:
    def find(at_least: int, **filters: str) -> list[Any]:
        """Oldest first. Services ship their events within a second."""
        for _ in range(600):
            found: list[Any] = client.get(f"{system.url('admin')}/api/audit", params=filters).json()["items"]
            if len(found) >= at_least:
                return found[::-1]
            time.sleep(0.1)
        raise AssertionError(found)

    return find


@pytest.fixture
def user(system: System, client: httpx.Client) -> Any:
    return client.post(f"{system.url('admin')}/api/service-accounts", json={"role": "USER"}).json()


def test_each_change_of_a_file_is_recorded_by_the_element_that_made_it(
    system: System, user: Any, events: Callable[..., list[Any]]
) -> None:
    base = f"{system.url('ingester')}/api/files"
    with system.client(system.token(user["client_id"], user["client_secret"])) as caller:
        stored = caller.post(f"{base}/upload", params={"retention": "temporary"}, content=b"content").json()
        file_id, element = stored["file_id"], stored["storage_element_id"]
        assert caller.patch(f"{base}/{file_id}", json={"tags": ["x"]}).status_code == 200
        assert caller.put(f"{base}/{file_id}/content", content=b"longer content").status_code == 200
        assert caller.delete(f"{base}/{file_id}").status_code == 204
    shown = [
        (event["service"], event["action"], event["user_id"], event["result"], event["metadata"])
        for event in events(3, resource=file_id)
    ]
    made = {"storage_element": element}
    assert shown == [
        (element, "file:update", user["id"], "success", {**made, "file_size": 7, "revision": 2}),
        (element, "file:update", user["id"], "success", {**made, "file_size": 14, "revision": 3}),
        (element, "file:delete", user["id"], "success", {**made, "file_size": 14, "revision": 4}),
    ]
    assert [event["resource"] for event in events(1, action="file:delete", user_id=user["id"])] == [file_id]


def test_a_denied_access_names_the_account_and_the_file(
    system: System, client: httpx.Client, events: Callable[..., list[Any]]
) -> None:
    auditor = client.post(f"{system.url('admin')}/api/service-accounts", json={"role": "AUDITOR"}).json()
    file_id = "019b2f6e-0000-7000-8000-000000000000"
    with system.client(system.token(auditor["client_id"], auditor["client_secret"])) as caller:
        assert caller.get(f"{system.url('query')}/api/files/{file_id}/content").status_code == 403
    (event,) = events(1, action="access:denied", user_id=auditor["id"], result="denied")
    assert (event["resource"], event["metadata"]["client_id"]) == (file_id, auditor["client_id"])
    assert event["metadata"]["path"] == f"/api/files/{file_id}/content"


def test_every_event_of_this_system_has_the_form_of_the_specification(events: Callable[..., list[Any]]) -> None:
    for event in events(10, limit="1000"):
        assert ACTION.fullmatch(event["action"]), event
        assert event["result"] in {"success", "denied", "failure"}, event
        assert not event["resource"].startswith(("files/", "service-accounts/", "storage-elements/")), event

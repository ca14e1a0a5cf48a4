"""A reader of the change feed sees every file once, however many clients upload at the same time."""

from __future__ import annotations

import concurrent.futures
import os
from typing import Any

import httpx
from support.system import System

UPLOADERS = 6
UPLOADS_EACH = 20


def read(client: httpx.Client, system: System, since: str | None, wait_s: int = 0) -> tuple[list[dict[str, Any]], str]:
    parameters: dict[str, Any] = {"limit": 50, "wait_s": wait_s, **({"since": since} if since else {})}
    answer = client.get(f"{system.url('query')}/api/changes", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"], answer.json()["next_cursor"]


def newest(client: httpx.Client, system: System) -> str:
    items, cursor = read(client, system, None)
    while items:
        items, cursor = read(client, system, cursor)
    return cursor


def test_a_follower_meets_every_upload_of_six_clients_once(client: httpx.Client, system: System) -> None:
    cursor = newest(client, system)
    upload_url = f"{system.url('ingester')}/api/files/upload"

    def upload_all(number: int) -> list[str]:
        stored = []
        for turn in range(UPLOADS_EACH):
            retention = "temporary" if (turn + number) % 2 else "permanent"
            answer = client.post(
                upload_url,
                params={"filename": "followed.bin", "retention": retention},
                content=os.urandom(100 if number else 300_000),
                headers={"content-type": "application/octet-stream"},
            )
            assert answer.status_code == 201, answer.text
            stored.append(str(answer.json()["file_id"]))
        return stored

    seen: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(UPLOADERS) as pool:
        uploads = [pool.submit(upload_all, number) for number in range(UPLOADERS)]
        while len(seen) < UPLOADERS * UPLOADS_EACH:
            items, cursor = read(client, system, cursor, wait_s=5)
            seen += [item["file_id"] for item in items if item["change"] == "created"]
            assert items or not all(upload.done() for upload in uploads), f"{len(seen)} seen, and no more come"
        stored = [file_id for upload in uploads for file_id in upload.result()]
    assert sorted(seen) == sorted(stored)


def test_a_follower_meets_changes_and_deletions_in_their_order(client: httpx.Client, system: System) -> None:
    cursor = newest(client, system)
    stored = client.post(
        f"{system.url('ingester')}/api/files/upload",
        params={"filename": "a.txt", "retention": "temporary"},
        content=b"one",
        headers={"content-type": "text/plain"},
    )
    path = f"{system.url('ingester')}/api/files/{stored.json()['file_id']}"
    assert client.patch(path, json={"tags": ["x"]}).status_code == 200
    assert client.put(f"{path}/content", content=b"two").status_code == 200
    assert client.delete(path).status_code == 204
    met: list[tuple[str, int]] = []
    while ("deleted", 3) not in met:
        items, cursor = read(client, system, cursor, wait_s=5)
        met += [(item["change"], item["revision"]) for item in items if item["file_id"] == stored.json()["file_id"]]
    assert met == [("created", 1), ("updated", 2), ("updated", 3), ("deleted", 3)]

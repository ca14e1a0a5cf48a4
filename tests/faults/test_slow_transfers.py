"""Slow clients: those that keep the minimum rate finish, at every door and in both directions, and the others are cut off."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from support.everyday import Load, load_of
from support.fleet import Fleet, running_fleet
from support.slow import head, read, send

MIN_RATE = 100_000
PERMITTED = 1.1 * MIN_RATE
TOO_SLOW = 0.25 * MIN_RATE
RAW = {"content_type": "application/octet-stream"}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with running_fleet(settings={"BODY_MIN_RATE_BYTES_PER_S": str(MIN_RATE), "BODY_IDLE_TIMEOUT_S": "10"}) as started:
        yield started


@pytest.fixture(scope="module")
def load(fleet: Fleet) -> Load:
    return load_of(fleet)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def test_an_upload_slightly_faster_than_the_minimum_rate_finishes_at_every_door(load: Load) -> None:
    body = os.urandom(2_000_000)
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + body + b"\r\n--b--\r\n"
    small, content = body[:200_000], f"/api/files/{load.on_edit}/content"
    upload, url = "/api/files/upload?filename=a", load.fleet.url("ingester")

    async def run() -> tuple[bytes, ...]:
        def sized(method: str, path: str, sent: bytes, kind: str) -> bytes:
            return head(method, path, load.token, content_type=kind, content_length=str(len(sent)))

        raw = RAW["content_type"]
        return await asyncio.gather(
            send(url, sized("POST", upload, body, raw), body, PERMITTED),
            send(url, sized("POST", upload, small, raw), small, PERMITTED),
            send(url, sized("POST", upload, form, "multipart/form-data; boundary=b"), form, PERMITTED),
            send(url, sized("POST", upload + "&retention=temporary", body, raw), body, PERMITTED),
            send(url, sized("PUT", content, body, raw), body, PERMITTED),
        )

    assert [status_of(answer) for answer in asyncio.run(run())] == [201, 201, 201, 201, 200]


def test_a_download_slightly_faster_than_the_minimum_rate_finishes_through_query_and_at_the_element(load: Load) -> None:
    body = os.urandom(6_000_000)
    file_id = load.fleet.upload(load.token, body).json()["file_id"]
    request = head("GET", f"/api/files/{file_id}/content", load.token)

    async def run() -> list[bytes]:
        urls = [load.fleet.url(name) for name in ("query", "se-02")]
        return await asyncio.gather(*(read(url, request, PERMITTED) for url in urls))

    assert all(answer.endswith(body) for answer in asyncio.run(run()))


def test_a_client_slower_than_the_minimum_rate_is_disconnected(load: Load) -> None:
    body = os.urandom(24_000_000)
    file_id = load.fleet.upload(load.token, body).json()["file_id"]
    download = head("GET", f"/api/files/{file_id}/content", load.token)
    upload = head("POST", "/api/files/upload?filename=a", load.token, content_length=str(len(body)), **RAW)

    async def run() -> list[bytes]:
        reads = [read(load.fleet.url(name), download, TOO_SLOW) for name in ("query", "se-02")]
        return await asyncio.gather(send(load.fleet.url("ingester"), upload, body, TOO_SLOW), *reads)

    sent, *downloads = asyncio.run(run())
    assert status_of(sent) == 408
    assert all(status_of(answer) == 200 and len(answer) < len(body) for answer in downloads)

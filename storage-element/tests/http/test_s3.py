"""An element with files in S3, as a process, tested over HTTP."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from artstore.clock import uuid7
from artstore.testing.services import S3Server

from ..faults.lengths import LONG
from ..running import Neighbours, RunningElement, eventually, running_element
from ..store.places import s3_settings

FLAT_BYTES = 100 << 20
MOST_GROWTH_BYTES = 96 << 20
"""The memory that one upload and one download of any size may add: parts, read-ahead, the log's buffers."""
LARGE, SMALL = 200_000, 100
KILLS = [
    (LARGE, "put.staged"),
    (LARGE, "put.data_renamed"),
    (LARGE, "put.renamed"),
    (SMALL, "put.small.data_written"),
    (SMALL, "put.noted"),
]
MORE_KILLS = [
    *((LARGE, f"put.{step}") for step in ("intended", "synced", "published", "noted", "notified", "closed")),
    *((SMALL, f"put.{step}") for step in ("intended", "small.published", "published", "notified", "closed")),
    *((size, f"wal.{step}") for size in (LARGE, SMALL) for step in ("written", "synced")),
]


def in_s3(s3: S3Server, **more: str) -> dict[str, str]:
    settings = s3_settings(s3)
    return {
        "STORAGE_BACKEND": "s3",
        "S3_ENDPOINT_URL": settings.endpoint_url,
        "S3_BUCKET": settings.bucket,
        "S3_PREFIX": settings.prefix,
        "S3_ACCESS_KEY_ID": settings.access_key_id,
        "S3_SECRET_ACCESS_KEY": settings.secret_access_key,
        "S3_TIMEOUT_S": "5",
        **more,
    }


@pytest.mark.parametrize("size", [0, 1, 65_536, 20_000_000])
async def test_a_file_in_s3_can_be_read_whole_and_in_ranges(
    neighbours: Neighbours, s3: S3Server, tmp_path: Path, size: int
) -> None:
    content = os.urandom(size)
    async with running_element(neighbours, tmp_path / "root", **in_s3(s3)) as element:
        file_id = str(uuid7())
        put = await element.put(content, file_id=file_id)
        assert put.status == 201
        assert put.json["checksum"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
        got = await element.ask("GET", f"/api/files/{file_id}/content")
        assert (got.status, got.body) == (200, content)
        if size:
            part = await element.ask("GET", f"/api/files/{file_id}/content", headers={"range": f"bytes={size // 2}-"})
            assert (part.status, part.body) == (206, content[size // 2 :])
            last = await element.ask("GET", f"/api/files/{file_id}/content", headers={"range": "bytes=-1"})
            assert last.body == content[-1:]
        beyond = await element.ask("GET", f"/api/files/{file_id}/content", headers={"range": f"bytes={size}-"})
        assert beyond.status == (416 if size else 200), "an empty file is whole to bytes=0-"
        assert (await element.ask("GET", f"/api/files/{file_id}")).body == put.body
        assert [item["file_id"] for item in (await element.ask("GET", "/api/files")).json["items"]] == [file_id]
        assert (await element.ask("GET", "/api/element")).json["backend"] == "s3"


async def test_memory_does_not_grow_with_the_file(neighbours: Neighbours, s3: S3Server, tmp_path: Path) -> None:
    sha256 = hashlib.sha256()

    async def body() -> AsyncIterator[bytes]:
        for _ in range(FLAT_BYTES >> 20):
            piece = os.urandom(1 << 20)
            sha256.update(piece)
            yield piece

    async with running_element(neighbours, tmp_path / "root", **in_s3(s3)) as element:
        file_id = str(uuid7())
        await element.put(os.urandom(1 << 20))
        before = peak_bytes(element.process.pid)
        put = await element.put(body(), file_id=file_id)
        assert (put.status, put.json["size_bytes"]) == (201, FLAT_BYTES)
        got = await element.ask("GET", f"/api/files/{file_id}/content")
        assert hashlib.sha256(got.body).hexdigest() == sha256.hexdigest()
        grown = peak_bytes(element.process.pid) - before
        assert grown < MOST_GROWTH_BYTES, f"grown by {grown >> 20} MiB"


@pytest.mark.parametrize(("size", "point"), [*KILLS, *MORE_KILLS] if LONG else KILLS)
async def test_a_put_killed_at_any_point_is_whole_or_absent_after_a_restart(
    neighbours: Neighbours, s3: S3Server, tmp_path: Path, size: int, point: str
) -> None:
    settings, content, file_id, saga_id = in_s3(s3), os.urandom(size), str(uuid7()), str(uuid7())
    nth = 2 if point.startswith("wal.") else 1  # the first is the checkpoint of the start
    async with running_element(
        neighbours, tmp_path / "root", **settings, ARTSTORE_POINT=f"{point}:kill:{nth}"
    ) as element:
        answered = await answer_to(element, content, file_id, saga_id)
        assert element.process.wait(120) == -signal.SIGKILL
    async with running_element(neighbours, tmp_path / "root", **settings) as element:
        await eventually(lambda: is_settled(element))
        found = await element.ask("GET", f"/api/files/{file_id}/content")
        assert found.status in ((200,) if answered else (200, 404))
        if found.status == 200:
            assert found.body == content
        listed = [item["file_id"] for item in (await element.ask("GET", "/api/files")).json["items"]]
        assert listed == ([file_id] if found.status == 200 else [])
        again = await element.put(content, file_id=file_id, saga_id=saga_id)
        assert again.status == (200 if found.status == 200 else 201)
    assert os.listdir(tmp_path / "root" / "tmp") == []


async def test_a_decided_rewrite_whose_new_bytes_are_lost_leaves_the_old_revision(
    neighbours: Neighbours, s3: S3Server, tmp_path: Path
) -> None:
    """The old content has the size of the new one, so only the temp says which bytes the object has."""
    settings, before = in_s3(s3), os.urandom(LARGE)
    async with running_element(
        neighbours, tmp_path / "root", **settings, ARTSTORE_POINT="update.decided:kill"
    ) as element:
        file_id = (await element.put(before)).json["file_id"]
        with contextlib.suppress(aiohttp.ClientError):
            await element.ask("PUT", f"/api/files/{file_id}/content", data=os.urandom(LARGE))
        assert element.process.wait(120) == -signal.SIGKILL
    for temp in (tmp_path / "root/tmp").iterdir():
        temp.unlink()
    async with running_element(neighbours, tmp_path / "root", **settings) as element:
        await eventually(lambda: is_settled(element))
        got = await element.ask("GET", f"/api/files/{file_id}/content")
        assert (got.status, got.body) == (200, before)
        described = (await element.ask("GET", f"/api/files/{file_id}")).json
        assert (described["revision"], described["checksum"]) == (1, f"sha256:{hashlib.sha256(before).hexdigest()}")


async def is_settled(element: RunningElement) -> bool:
    metrics = (await element.ask("GET", "/metrics")).body.decode()
    return "wal_open_intents 0.0" in metrics and "element_owed_files 0.0" in metrics


async def answer_to(element: Any, content: bytes, file_id: str, saga_id: str) -> bool:
    try:
        return bool((await element.put(content, file_id=file_id, saga_id=saga_id)).status == 201)
    except aiohttp.ClientError:
        return False


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))

"""The files are the truth: without catalog and caches, rebuilt from the elements' disks, every answer is as before."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import redis
from support.system import System, run, running_system

ELEMENTS = ("se-01", "se-02", "se-03")
DEADLINE_S = 120
COLUMNS = (
    "file_id, revision, state, storage_element_id, attributes, filename, content_type, size_bytes, owner, tags, metadata, "
    "created_at, updated_at, expires_at"
)


@pytest.fixture(scope="module")
def own() -> Iterator[System]:
    """A system whose catalog may be thrown away."""
    if os.environ.get("ARTSTORE_SYSTEM_KEYS"):
        pytest.fail("this test throws a catalog away: it runs only on a system of its own")
    with running_system() as started:
        yield started


@pytest.fixture(scope="module")
def client(own: System) -> Iterator[httpx.Client]:
    with own.client() as opened:
        yield opened


def test_dropped_and_rebuilt_every_answer_is_as_before(own: System, client: httpx.Client) -> None:
    contents = {record["file_id"]: (record, content) for record, content in _filled(own, client)}
    rows, pages = _rows(own), _listings(own, client)
    assert len(rows) == len(contents)

    _sql(own, "TRUNCATE files")
    with redis.Redis.from_url(_key(own, "redis-url")) as cache:
        cache.flushall()
    assert _rows(own) == []
    for element_id in ELEMENTS:
        answer = client.post(f"{own.url('admin')}/api/storage-elements/{element_id}/rebuild")
        assert answer.status_code == 202, answer.text
    for element_id in ELEMENTS:
        assert _rebuilt(own, client, element_id)["phase"] == "done"

    assert _rows(own) == rows
    assert _listings(own, client) == pages
    for file_id, (record, content) in contents.items():
        # Not asked for before: nothing in the read path's memory can answer.
        assert client.get(f"{own.url('query')}/api/files/{file_id}").json() == record
        got = client.get(f"{own.url('query')}/api/files/{file_id}/content")
        assert (got.status_code, got.content) == (200, content)
        assert got.headers["etag"].strip('"') == record["checksum"]


def test_an_elements_folder_and_its_copy_are_sound_without_a_service(own: System, tmp_path: Path) -> None:
    assert own.data is not None
    for element_id in ELEMENTS:
        copy = tmp_path / element_id
        shutil.copytree(own.data / "elements" / element_id, copy, symlinks=True)
        verdict = json.loads(run("verify", str(copy), "--json").stdout)
        assert verdict["sound"], verdict["findings"]
        assert verdict["files"] == len([row for row in _rows(own) if row[3] == element_id])
    flipped = next(path for path in (tmp_path / "se-02" / "files").rglob("*") if path.suffix == "" and path.is_file())
    flipped.write_bytes(b"\x00" + flipped.read_bytes()[1:] + b"\x01")
    done = run("verify", str(tmp_path / "se-02"), check=False)
    assert done.returncode == 1
    assert flipped.name in done.stdout


def _filled(own: System, client: httpx.Client) -> list[tuple[dict[str, Any], bytes]]:
    """Files of every sort, some changed since; and one deleted."""
    kept = [
        _upload(own, client, os.urandom(size), name, **params)
        for size, name, params in (
            (0, "empty.bin", {}),
            (1, "Договор №5.pdf", {"tags": '["contract", "2026"]', "metadata": '{"number": "5", "of": {"page": 1}}'}),
            (65_536, "a" * 255, {}),
            (65_537, "📄🔥.txt", {"tags": '["договор"]'}),
            (3_000_000, 'say "hi".bin', {}),
            (500, "draft.txt", {"retention": "temporary", "ttl_days": 3}),
            (100_000, "draft-large.txt", {"retention": "temporary"}),
        )
    ]
    patched, _ = kept[5]
    answer = client.patch(f"{own.url('ingester')}/api/files/{patched['file_id']}", json={"tags": ["changed"]})
    assert answer.status_code == 200, answer.text
    kept[5] = (answer.json(), kept[5][1])
    replaced, content = kept[6][0], os.urandom(200_000)
    answer = client.put(f"{own.url('ingester')}/api/files/{replaced['file_id']}/content", content=content)
    assert answer.status_code == 200, answer.text
    kept[6] = (answer.json(), content)
    gone, _ = _upload(own, client, b"gone", "gone.txt", retention="temporary")
    assert client.delete(f"{own.url('ingester')}/api/files/{gone['file_id']}").status_code == 204
    return kept


def _upload(
    own: System, client: httpx.Client, content: bytes, name: str, **params: Any
) -> tuple[dict[str, Any], bytes]:
    answer = client.post(
        f"{own.url('ingester')}/api/files/upload",
        params={"filename": name, **params},
        content=content,
        headers={"content-type": "application/pdf"},
    )
    assert answer.status_code == 201, answer.text
    return dict(answer.json()), content


def _listings(own: System, client: httpx.Client) -> list[Any]:
    wanted: list[dict[str, Any]] = [{}, {"tag": "contract"}, {"filename": "empty.bin"}, {"limit": 2}]
    return [client.get(f"{own.url('query')}/api/files", params=params).json()["items"] for params in wanted]


def _rebuilt(own: System, client: httpx.Client, element_id: str) -> dict[str, Any]:
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        state = client.get(f"{own.url(element_id)}/api/element").json()["upkeep"]["rebuild"]
        if state["finished_at"]:
            return dict(state)
        time.sleep(0.1)
    raise AssertionError(f"the rebuild of {element_id} has not ended")


def _rows(own: System) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in _sql(own, f"SELECT {COLUMNS} FROM files ORDER BY file_id")]


def _sql(own: System, statement: str) -> list[Any]:
    async def ask() -> list[Any]:
        connection = await asyncpg.connect(_key(own, "database-url").replace("+asyncpg", ""))
        try:
            return list(await connection.fetch(statement))
        finally:
            await connection.close()

    return asyncio.run(ask())


def _key(own: System, name: str) -> str:
    return (own.keys / name).read_text().strip()

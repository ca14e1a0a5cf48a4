"""Over HTTP: a file that cannot be read is answered with an error of its own before any of it is sent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from artstore.contracts.storage import FILES_HEADER, ReadRefused, decode_reads

from ..running import Neighbours, running_element
from ..upkeep.catalog import attributes_path, data_path


async def test_an_unreadable_file_fails_alone(neighbours: Neighbours, tmp_path: Path) -> None:
    """A folder under a file's name opens, has a size, and cannot be read: an error of the operating system, on any disk."""
    root = tmp_path / "se"
    folder = tmp_path / "folder"
    folder.mkdir()
    size = folder.stat().st_size
    if size == 0:
        pytest.skip("folders have no size on this file system")
    async with running_element(neighbours, root) as element:
        bad, bare, good = [(await element.put(os.urandom(size))).json["file_id"] for _ in range(3)]
        data_path(root, bad).unlink()
        folder.rename(data_path(root, bad))
        attributes_path(root, bare).unlink()
        attributes_path(root, bare).mkdir()
        for path in (f"/api/files/{bad}/content", f"/api/files/{bare}/content", f"/api/files/{bare}"):
            answer = await element.ask("GET", path)
            assert (answer.status, answer.json["code"], answer.json["reason"]) == (500, "file_damaged", "unreadable")
        ranged = await element.ask("GET", f"/api/files/{bad}/content", headers={"range": "bytes=5-9"})
        assert (ranged.status, ranged.json["reason"]) == (500, "unreadable")
        ids = f"{bad},{good},{bare}"
        together = decode_reads((await element.ask("GET", "/api/files/contents", headers={FILES_HEADER: ids})).body)
        assert [isinstance(read, ReadRefused) and read.status for read in together] == [500, False, 500]
        assert (await element.ask("GET", f"/api/files/{bad}")).status == 200
        listed = await element.ask("GET", "/api/files?limit=1000")
        assert {bad, good} <= {one["file_id"] for one in listed.json["items"]}
        assert (await element.put(b"another")).status == 201
        assert (await element.ask("PATCH", f"/api/files/{good}", json={"tags": ["a"]})).status == 200
        assert (await element.ask("DELETE", f"/api/files/{good}")).status == 204
        metrics = (await element.ask("GET", "/metrics")).body.decode()
        assert "element_failed 0.0" in metrics
        assert 'element_findings_total{kind="unreadable"} 0.0' not in metrics


@pytest.mark.parametrize("damaged", ["a\0/b", "text/plain\r\nX-Evil: 1", "", "текст/html"])
async def test_content_is_served_whatever_type_an_edited_attr_json_states(
    neighbours: Neighbours, tmp_path: Path, damaged: str
) -> None:
    root = tmp_path / "se"
    async with running_element(neighbours, root) as element:
        file_id = (await element.put(b"bytes")).json["file_id"]
        path = attributes_path(root, file_id)
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "content_type": damaged}))
        answer = await element.ask("GET", f"/api/files/{file_id}/content")
        assert (answer.status, answer.body) == (200, b"bytes")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert "x-evil" not in answer.headers


async def test_a_dangling_link_is_unreadable_and_not_missing(neighbours: Neighbours, tmp_path: Path) -> None:
    """Its target may be on a disk that is not mounted now."""
    root = tmp_path / "se"
    async with running_element(neighbours, root) as element:
        bare, bad = [(await element.put(b"bytes")).json["file_id"] for _ in range(2)]
        for path in (attributes_path(root, bare), data_path(root, bad)):
            path.rename(tmp_path / path.name)
            path.symlink_to(tmp_path / "unmounted" / path.name)
        for file_id in (bare, bad):
            answer = await element.ask("GET", f"/api/files/{file_id}/content")
            assert (answer.status, answer.json["reason"]) == (500, "unreadable")
        (tmp_path / "unmounted").symlink_to(tmp_path)
        for file_id in (bare, bad):
            assert (await element.ask("GET", f"/api/files/{file_id}/content")).body == b"bytes"

"""The disk or the catalog fails under a running element."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from artstore.testing.fakes import FakeAdmin
from artstore.testing.services import ValkeyServer, start_postgres

from ..conftest import new_neighbours
from ..running import Neighbours, eventually, running_element
from .disks import recorded_disk, why_not
from .journal import ABSENT, State
from .outside import check_element, stored

SMALL, LARGE = os.urandom(500), os.urandom(300_000)


async def test_a_disk_error_makes_the_element_read_only_and_is_reported(
    own_neighbours: Neighbours, tmp_path: Path
) -> None:
    reason = why_not("ext4")
    if reason is not None:
        pytest.skip(f"NOT PROVEN here: no disk that fails, because {reason}")
    with recorded_disk(tmp_path, "ext4") as disk:
        (disk.mountpoint / "root").mkdir()
        (tmp_path / "se").symlink_to(disk.mountpoint / "root")
        async with running_element(own_neighbours, tmp_path / "se") as element:
            kept = {stored(await element.put(content), content)[0]: content for content in (SMALL, LARGE)}
            disk.break_flushes()
            failed = await element.put(SMALL)
            assert (failed.status, failed.json["code"]) == (503, "element_failed")
            # Not tried again, though the disk might say yes the second time; what is there is read all the same.
            (tmp_path / "broken").unlink()
            for size in (SMALL, LARGE):
                assert (await element.put(size)).json["code"] == "element_failed"
            for file_id, content in kept.items():
                path = f"/api/files/{file_id}"
                assert (await element.ask("DELETE", path)).json["code"] == "element_failed"
                assert (await element.ask("PATCH", path, json={"tags": []})).json["code"] == "element_failed"
                assert (await element.ask("GET", f"{path}/content")).body == content
            report = (await element.ask("GET", "/api/element")).json
            assert "Input/output error" in report["read_only_reason"]
            assert "element_failed 1.0" in (await element.ask("GET", "/metrics")).body.decode()

            async def admin_heard() -> bool:
                return any(heard.read_only_reason for heard in own_neighbours.admin.reports)

            await eventually(admin_heard)
        assert "disk failed: read-only until the next start" in (tmp_path / "se.log").read_text()


async def test_without_the_catalog_puts_are_refused_and_changes_are_settled_later(
    valkey: ValkeyServer, admin: FakeAdmin, tmp_path: Path
) -> None:
    tmp_path.chmod(0o711)
    folder = tmp_path / "servers"
    folder.mkdir(mode=0o711)
    postgres = await asyncio.to_thread(start_postgres, folder)
    try:
        neighbours = await new_neighbours(postgres, valkey, admin)
        async with running_element(neighbours, tmp_path / "se") as element:
            allowed: dict[str, list[State]] = {}
            for content in (SMALL, LARGE, SMALL):
                file_id, state = stored(await element.put(content), content)
                allowed[file_id] = [state]
            patched, rewritten, gone = allowed
            postgres.stop()
            for content in (SMALL, LARGE):
                assert (await element.put(content)).status == 503
            assert list((element.root / "tmp").iterdir()) == []
            answer = await element.ask("PATCH", f"/api/files/{patched}", json={"tags": ["x"]})
            allowed[patched] = [stored(answer, SMALL)[1]]
            answer = await element.ask("PUT", f"/api/files/{rewritten}/content", data=LARGE[1:])
            allowed[rewritten] = [stored(answer, LARGE[1:])[1]]
            assert (await element.ask("DELETE", f"/api/files/{gone}")).status == 204
            allowed[gone] = [ABSENT]
            postgres = await asyncio.to_thread(start_postgres, folder, postgres.port)
            await check_element(element, neighbours, allowed)

            async def takes_puts() -> bool:
                return (await element.put(SMALL, file_id=gone)).status == 201

            await eventually(takes_puts)
    finally:
        postgres.discard()

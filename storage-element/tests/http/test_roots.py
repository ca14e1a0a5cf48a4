"""An element serves only from the root that the registry knows, and from the disk that it opened."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest

from artstore.clock import uuid7
from artstore.contracts.elements import ElementReport, Mode
from artstore.contracts.tokens import Role
from artstore.errors import ArtStoreError, Fenced, UnknownRoot
from artstore.testing.services import free_port

from ..running import CALLER, Neighbours, RunningElement, environment, eventually, running_element, start_process
from ..upkeep.catalog import data_path

Refuse = Callable[[ElementReport], ArtStoreError | None]


@pytest.fixture
def refusing(neighbours: Neighbours) -> Iterator[Callable[[Refuse], None]]:
    def set_refusal(refuse: Refuse) -> None:
        neighbours.admin.refuse_report = refuse

    yield set_refusal
    neighbours.admin.refuse_report = None
    neighbours.admin.unavailable_reports = 0


@asynccontextmanager
async def started(neighbours: Neighbours, root: Path, **settings: str) -> AsyncIterator[RunningElement]:
    """Live when given, ready or not."""
    port = free_port()
    process = start_process(environment(neighbours, root, port, **settings), root.with_suffix(".log"))
    token = neighbours.admin.signer.token(Role.SERVICE, CALLER)
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {token}"}) as session:
        element = RunningElement(f"http://127.0.0.1:{port}", port, process, session, root)
        try:
            await eventually(lambda: is_live(element))
            yield element
        finally:
            element.stop()


async def is_live(element: RunningElement) -> bool:
    assert element.process.poll() is None
    try:
        return (await element.ask("GET", "/health/live")).status == 200
    except aiohttp.ClientConnectionError:
        return False


async def check(element: RunningElement, name: str) -> dict[str, object]:
    found: dict[str, object] = (await element.ask("GET", "/health/ready")).json["checks"][name]
    return found


async def says(element: RunningElement, name: str, words: str) -> bool:
    return words in str((await check(element, name))["detail"])


async def is_ready(element: RunningElement) -> bool:
    return (await element.ask("GET", "/health/ready")).status == 200


def no_root(report: ElementReport) -> ArtStoreError | None:
    return UnknownRoot("another root is known") if report.root_id == "" else None


async def stored(element: RunningElement, content: bytes = b"acknowledged") -> str:
    file_id = str(uuid7())
    assert (await element.put(content, file_id=file_id)).status == 201
    return file_id


@pytest.mark.parametrize("what", ["empty", "lost+found", "missing"])
async def test_an_unmounted_disk_is_not_replaced_and_is_opened_once_mounted(
    neighbours: Neighbours, tmp_path: Path, refusing: Callable[[Refuse], None], what: str
) -> None:
    root, away = tmp_path / "mount" / "root", tmp_path / "away"
    root.parent.mkdir()
    async with running_element(neighbours, root) as element:
        file_id = await stored(element)
    root.rename(away)
    if what != "missing":
        root.mkdir()
    if what == "lost+found":
        (root / "lost+found").mkdir()
    before = sorted(path for path in root.parent.rglob("*") if path.suffix != ".log")
    refusing(no_root)
    async with started(neighbours, root) as element:
        await eventually(lambda: says(element, "root", "there is no root"))
        answers = [await element.ask(method, f"/api/files/{file_id}") for method in ("GET", "DELETE", "PATCH")]
        answers += [await element.put(b"new"), await element.ask("GET", f"/api/files/{file_id}/content")]
        assert {answer.status for answer in answers} == {503}
        assert all("retry-after" in answer.headers for answer in answers)
        assert sorted(path for path in root.parent.rglob("*") if path.suffix != ".log") == before
        if what != "missing":
            shutil.rmtree(root)
        away.rename(root)
        await eventually(lambda: is_ready(element))
        assert (await element.ask("GET", f"/api/files/{file_id}/content")).body == b"acknowledged"


async def test_a_disk_that_disappears_is_reported_and_used_again_when_it_returns(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    root, away = tmp_path / "root", tmp_path / "away"

    async def told() -> bool:
        return "the root is gone" in (neighbours.admin.reports[-1].away_reason or "")

    async def told_back() -> bool:
        return neighbours.admin.reports[-1].away_reason is None

    async with running_element(neighbours, root) as element:
        file_id, large = await stored(element), await stored(element, os.urandom(200_000))
        for moved, place in ((root, away), (root / "files", tmp_path / "files")):
            moved.rename(place)
            moved.mkdir()
            read = [f"/api/files/{file_id}", f"/api/files/{file_id}/content", f"/api/files/{large}/content"]
            answers = [await element.ask("GET", path) for path in [*read, f"/api/files/{uuid7()}"]]
            answers += [await element.put(b"new"), await element.put(os.urandom(200_000))]
            answers.append(await element.ask("DELETE", f"/api/files/{file_id}"))
            answers.append(
                await element.ask("DELETE", f"/api/files/{uuid7()}", headers={"x-artstore-saga": str(uuid7())})
            )
            answers.append(await element.ask("PATCH", f"/api/files/{file_id}", json={"filename": "b"}))
            assert {answer.status for answer in answers} == {503}
            assert not await is_ready(element) or await eventually(lambda: says(element, "root", "gone"))
            await eventually(told)
            assert list(moved.rglob("*")) == []
            moved.rmdir()
            place.rename(moved)
            await eventually(lambda: is_ready(element))
            await eventually(told_back)
            assert (await element.ask("GET", f"/api/files/{file_id}/content")).status == 200
            assert (await element.put(b"as before")).status == 201
            assert (await element.ask("GET", f"/api/files/{uuid7()}")).status == 404


async def test_a_root_replaced_by_another_needs_a_restart(neighbours: Neighbours, tmp_path: Path) -> None:
    root, copy = tmp_path / "root", tmp_path / "copy"
    async with running_element(neighbours, root) as element:
        file_id = await stored(element)
        shutil.copytree(root, copy)
        root.rename(tmp_path / "away")
        copy.rename(root)
        assert (await element.ask("GET", f"/api/files/{file_id}")).status == 503
        await eventually(lambda: says(element, "root", "restart needed"))
        assert (await element.put(b"lost to view")).status == 503
        assert not list((root / "tmp").iterdir())


async def test_a_refused_root_serves_nothing_until_it_is_accepted(
    neighbours: Neighbours, tmp_path: Path, refusing: Callable[[Refuse], None]
) -> None:
    root = tmp_path / "root"
    element_json = root / "element.json"
    async with running_element(neighbours, root, ELEMENT_ANNOUNCE_EVERY_S="0.3") as element:
        file_id = await stored(element)
        first = msgspec.json.decode(element_json.read_bytes())
        refusing(lambda _: Fenced("another process has it"))
        await eventually(lambda: says(element, "root", "fenced"))
        answers = [await element.ask("GET", f"/api/files/{file_id}/content"), await element.put(b"new")]
        assert [answer.status for answer in answers] == [503, 503]
    # Sticky: also after a restart while admin is away, and a start of a refused root is not counted
    neighbours.admin.unavailable_reports = 1_000_000
    async with started(neighbours, root) as element:
        await eventually(lambda: says(element, "recovery", "done"))
        assert (await element.ask("GET", f"/api/files/{file_id}/content")).status == 503
        assert msgspec.json.decode(element_json.read_bytes())["incarnation"] == first["incarnation"]
        refusing(lambda _: None)
        neighbours.admin.unavailable_reports = 0
        await eventually(lambda: is_ready(element))
        assert (await element.ask("GET", f"/api/files/{file_id}/content")).status == 200
    async with running_element(neighbours, root):
        assert msgspec.json.decode(element_json.read_bytes())["incarnation"] == first["incarnation"] + 1


async def test_an_accepted_root_serves_without_admin_but_answers_unavailable_for_missing_files(
    neighbours: Neighbours, tmp_path: Path, refusing: Callable[[Refuse], None]
) -> None:
    async with running_element(neighbours, tmp_path / "root") as element:
        file_id = await stored(element)
    refusing(lambda _: None)
    neighbours.admin.unavailable_reports = 1_000_000
    async with started(neighbours, tmp_path / "root") as element:
        await eventually(lambda: is_ready(element))
        assert (await element.ask("GET", f"/api/files/{file_id}/content")).status == 200
        unknown = await element.ask("GET", f"/api/files/{uuid7()}")
        assert (unknown.status, unknown.json["away"]) == (503, "admin")
        neighbours.admin.unavailable_reports = 0

        async def denied() -> bool:
            return (await element.ask("GET", f"/api/files/{uuid7()}")).status == 404

        await eventually(denied)


async def test_a_root_older_than_root_ids_is_accepted(neighbours: Neighbours, tmp_path: Path) -> None:
    root = tmp_path / "root"
    async with running_element(neighbours, root) as element:
        file_id = await stored(element)
    kept = msgspec.json.decode((root / "element.json").read_bytes())
    old = {name: kept[name] for name in ("element_id", "mode", "changed_at", "schema_version")}
    (root / "element.json").write_bytes(msgspec.json.encode(old))
    async with running_element(neighbours, root) as element:
        assert (await element.ask("GET", f"/api/files/{file_id}/content")).status == 200
    taken = msgspec.json.decode((root / "element.json").read_bytes())
    assert (len(taken["root_id"]), taken["incarnation"], taken["accepted"]) == (32, 1, True)


async def test_a_recovering_start_is_live_and_shows_its_progress(neighbours: Neighbours, tmp_path: Path) -> None:
    root = tmp_path / "root"
    async with running_element(neighbours, root) as element:
        file_ids = [await stored(element, os.urandom(500)) for _ in range(20)]
        element.stop(signal.SIGKILL)
    # Recovery hashes what it finds: a FIFO makes it wait for a writer.
    data = data_path(root, file_ids[10])
    data.unlink()
    os.mkfifo(data)
    async with started(neighbours, root) as element:
        await eventually(lambda: says(element, "recovery", "making files from the log: 10 of 20"))
        answer = await element.ask("GET", f"/api/files/{file_ids[0]}")
        assert (answer.status, "retry-after" in answer.headers) == (503, True)
        assert "making files from the log" in answer.json["detail"]
        data.open("wb").close()
        await eventually(lambda: is_ready(element))
        for file_id in file_ids:
            assert (await element.ask("GET", f"/api/files/{file_id}/content")).status == 200


@pytest.mark.parametrize("folder", ["files", "tmp", "quarantine", "wal"])
async def test_folders_on_another_file_system_are_refused_with_one_line(
    neighbours: Neighbours, tmp_path: Path, folder: str
) -> None:
    other = Path("/dev/shm") / f"artstore-{uuid7()}"
    other.mkdir()
    root, log = tmp_path / "root", tmp_path / "log"
    try:
        if other.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("/dev/shm is not another file system here")
        root.mkdir()
        (root / folder).symlink_to(other)
        process = start_process(environment(neighbours, root, free_port()), log)
        assert process.wait(30) == 3
        (line,) = [line for line in log.read_text().splitlines() if "start refused" in line]
        assert f"{root}/{folder} is on another file system" in line
        assert [path.name for path in root.iterdir()] == [folder]
    finally:
        shutil.rmtree(other)


async def test_an_unusable_audit_folder_is_refused_with_one_line(neighbours: Neighbours, tmp_path: Path) -> None:
    """As on a disk that the kernel has made read-only: there, too, no file can be made."""
    blocked, log = tmp_path / "blocked", tmp_path / "log"
    blocked.write_bytes(b"")
    settings = environment(neighbours, tmp_path / "root", free_port(), AUDIT_FOLDER=str(blocked / "audit"))
    process = start_process(settings, log)
    assert process.wait(60) == 3
    (line,) = [line for line in log.read_text().splitlines() if "start refused" in line]
    assert "AUDIT_FOLDER cannot be used" in line
    assert "Traceback" not in log.read_text()
    assert not (tmp_path / "root").exists()


async def test_a_known_root_without_its_files_is_refused(neighbours: Neighbours, tmp_path: Path) -> None:
    root, log = tmp_path / "root", tmp_path / "log"
    async with running_element(neighbours, root):
        pass
    (root / "files").rename(tmp_path / "files")
    (root / "files").mkdir()
    process = start_process(environment(neighbours, root, free_port()), log)
    assert process.wait(30) == 3
    assert "is everything mounted?" in log.read_text()
    assert list((root / "files").iterdir()) == []


async def test_a_mode_further_along_in_the_registry_is_adopted(neighbours: Neighbours, tmp_path: Path) -> None:
    neighbours.admin.mode = Mode.RO
    try:
        async with running_element(neighbours, tmp_path / "root", STORAGE_MODE="rw") as element:
            assert (await element.put(b"too late")).status in (409,)
            assert (await element.ask("GET", "/api/element")).json["mode"] == "ro"
            metrics = (await element.ask("GET", "/metrics")).body.decode().splitlines()
            assert {'element_mode{mode="ro"} 1.0', 'element_mode{mode="rw"} 0.0'} <= set(metrics)
    finally:
        neighbours.admin.mode = None


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a loop device needs root")
async def test_an_unmounted_disk_is_used_again_once_mounted(neighbours: Neighbours, tmp_path: Path) -> None:
    image, mount = tmp_path / "disk.img", tmp_path / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, mount], capture_output=True).returncode:
        pytest.skip("no loop device can be mounted here")
    try:
        async with running_element(neighbours, mount / "root") as element:
            file_id = await stored(element)
            device = subprocess.run(["findmnt", "-no", "SOURCE", mount], capture_output=True, text=True).stdout.strip()
            subprocess.run(["umount", "-l", mount], check=True)
            assert (await element.ask("GET", f"/api/files/{file_id}")).status == 503
            assert (await element.put(b"new")).status == 503
            assert list(mount.iterdir()) == []
            subprocess.run(["mount", device, mount], check=True)
            await eventually(lambda: is_ready(element))
            assert (await element.ask("GET", f"/api/files/{file_id}/content")).body == b"acknowledged"
            assert (await element.put(b"as before")).status == 201
    finally:
        subprocess.run(["umount", "-l", mount], check=False)

"""A backup copies, links and refuses what it should; keys are encrypted. Whole systems: tests/e2e/test_backup.py."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from artstore.clock import uuid7
from artstore.contracts.files import Attributes, encode
from artstore.testing.valkey_cluster import MASTERS, running_cluster
from artstore_cli.backup import backup, element, keys, restore, schedule
from artstore_cli.backup.containers import BackupSettings, ContainerSystem
from artstore_cli.backup.element import ElementCopy
from artstore_cli.backup.files import Files, LocalFiles
from artstore_cli.backup.local import LocalSystem
from artstore_cli.data_folder import DataFolder
from artstore_cli.errors import CommandError

AT = "2026-01-01T00:00:00.000000Z"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "se-02"
    (folder / "files").mkdir(parents=True)
    (folder / "element.json").write_text("{}")
    return folder


def copy_element(root: Path, target: Path, before: Path | None) -> ElementCopy:
    return element.copy_element(root, LocalFiles(root), target, before)


def put(root: Path, content: bytes, file_id: str = "", revision: int = 1) -> Path:
    """The path of the data, below the root."""
    file_id = file_id or str(uuid7())
    data = root / "files" / file_id[-4:-2] / file_id[-2:] / file_id
    data.parent.mkdir(parents=True, exist_ok=True)
    attributes = Attributes(
        file_id=file_id,
        revision=revision,
        filename="a.txt",
        content_type="text/plain",
        size_bytes=len(content),
        checksum=f"sha256:{hashlib.sha256(content).hexdigest()}",
        storage_element_id=root.name,
        created_at=AT,
        updated_at=AT,
        owner="tests",
        tags=[],
        metadata={},
        retention="permanent",
        expires_at=None,
    )
    data.write_bytes(content)
    data.with_name(f"{file_id}.attr.json").write_bytes(encode(attributes))
    return data.relative_to(root)


def test_a_file_that_the_backup_before_has_is_linked(root: Path, tmp_path: Path) -> None:
    same, changed = put(root, b"same"), put(root, b"first")
    first, second = tmp_path / "1" / "se-02", tmp_path / "2" / "se-02"
    copy_element(root, first, None)
    put(root, b"second", changed.name, revision=2)
    new = put(root, b"new")
    done = copy_element(root, second, first)
    assert (done.files, done.copied, done.copied_bytes, done.damaged) == (3, 2, len(b"second" + b"new"), [])
    assert (first / same).samefile(second / same)
    assert [(second / path).read_bytes() for path in (same, changed, new)] == [b"same", b"second", b"new"]
    assert (first / changed).read_bytes() == b"first"


def test_damaged_and_foreign_files_are_named_or_left_out(root: Path, tmp_path: Path) -> None:
    good, bad, torn, lost = (put(root, content) for content in (b"good", b"as written", b"x", b"lost"))
    (root / lost).unlink()
    (root / bad).write_bytes(b"as decayed")
    (root / torn).with_name(f"{torn.name}.attr.json").write_bytes(b"{")
    (root / good).with_name(".DS_Store").write_bytes(b"")
    (root / good).with_name(str(uuid7())).write_bytes(b"without attributes")
    target = tmp_path / "backup" / "se-02"
    done = copy_element(root, target, None)
    assert done.files == 1
    assert sorted(text.partition(":")[0] for text in done.damaged) == sorted([bad.name, torn.name, lost.name])
    assert sorted(path.name for path in target.rglob("*") if path.is_file()) == sorted(
        [good.name, f"{good.name}.attr.json", "element.json"]
    )


def test_a_damaged_file_is_kept_as_the_backup_before_has_it(root: Path, tmp_path: Path) -> None:
    path, first, second = put(root, b"good"), tmp_path / "1" / "se-02", tmp_path / "2" / "se-02"
    copy_element(root, first, None)
    (root / path).write_bytes(b"bad!")
    assert copy_element(root, second, first).damaged == []
    assert (second / path).read_bytes() == b"good"


def test_a_file_that_is_changed_while_it_is_copied_is_copied_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, target, copy_bytes = put(root, b"first"), tmp_path / "backup" / "se-02", element._copy_bytes
    changes = iter([b"second"])

    def interrupted(files: Files, source: str, copy: Path) -> tuple[int, str]:
        for content in changes:
            put(root, content, path.name, revision=2)
        return copy_bytes(files, source, copy)

    monkeypatch.setattr(element, "_copy_bytes", interrupted)
    assert copy_element(root, target, None).damaged == []
    assert (target / path).read_bytes() == b"second"
    assert b'"revision":2' in (target / path).with_name(f"{path.name}.attr.json").read_bytes()


def test_a_file_that_is_deleted_while_it_is_copied_is_left_out(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, target, copy_bytes = put(root, b"gone"), tmp_path / "backup" / "se-02", element._copy_bytes

    def interrupted(files: Files, source: str, copy: Path) -> tuple[int, str]:
        (root / path).with_name(f"{path.name}.attr.json").unlink()
        (root / path).unlink()
        return copy_bytes(files, source, copy)

    monkeypatch.setattr(element, "_copy_bytes", interrupted)
    done = copy_element(root, target, None)
    assert (done.files, done.damaged) == (0, [])
    assert not (target / path).exists()


def test_an_error_of_the_backups_disk_is_not_taken_for_damage(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, b"good")

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(element, "_write", full)
    with pytest.raises(OSError, match="No space"):
        copy_element(root, tmp_path / "backup" / "se-02", None)


def test_without_hard_links_files_are_copied(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, first, second = put(root, b"same"), tmp_path / "1" / "se-02", tmp_path / "2" / "se-02"
    copy_element(root, first, None)

    def refused(source: Path, copy: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    assert copy_element(root, second, first).copied == 1
    assert (second / path).read_bytes() == b"same"


def test_a_removal_that_is_cut_off_leaves_no_backup_that_looks_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "2026-01-01T00-00-00Z"
    (old / "elements").mkdir(parents=True)
    (old / "manifest.json").write_text("{}")

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        backup._remove(old)
    assert list(backup.complete(tmp_path)) == []
    assert backup._incomplete(tmp_path) == [old]


@pytest.mark.parametrize(
    ("now", "newest", "due"),
    [
        ("2026-01-02T01:00", None, "2026-01-02T01:00"),
        ("2026-01-02T01:00", "2026-01-01T02:30", "2026-01-02T02:30"),
        ("2026-01-02T02:30", "2026-01-01T02:30", "2026-01-02T02:30"),
        ("2026-01-02T03:00", "2026-01-02T02:30", "2026-01-03T02:30"),
        ("2026-01-02T03:00", "2026-01-02T02:59", "2026-01-03T02:30"),
        ("2026-01-05T09:00", "2026-01-02T02:30", "2026-01-05T09:00"),
    ],
)
def test_a_backup_is_due_daily_and_at_once_after_one_was_missed(now: str, newest: str | None, due: str) -> None:
    moments = [None if text is None else datetime.fromisoformat(f"{text}+00:00") for text in (now, newest, due)]
    assert moments[0] is not None
    assert schedule.due_at(moments[0], moments[1], "02:30") == moments[2]


def test_a_backup_that_fails_is_repeated_soon_and_then_every_five_minutes() -> None:
    """The first start of a system is over within seconds; a full disk is not."""
    pauses = [schedule.pause_after(failures) for failures in (1, 2, 3, 6, 7, 10_000)]
    assert pauses == [10, 20, 40, 300, 300, 300]


def manifest_of(root: Path, made: Path) -> backup.Manifest:
    """A backup of this element alone, in the folder `made`."""
    return backup.Manifest(
        began_at=AT,
        ended_at=AT,
        dump_sha256="",
        dump_bytes=0,
        elements=[copy_element(root, made / "elements" / root.name, None)],
        has_keys=False,
        not_included=[],
    )


def test_a_restore_needs_space_for_what_it_puts_beside_the_present_files(
    root: Path, tmp_path: Path, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, b"x" * 1000)
    made = tmp_path / "2026-01-01T00-00-00Z"
    manifest = manifest_of(root, made)
    full = shutil.disk_usage(tmp_path)._replace(free=restore.SPARE_BYTES)
    (folder.elements / "se-02").mkdir()
    work = restore.Restore(LocalSystem(folder), made, manifest, lambda _: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(CommandError, match="no space left on the disk of"):
        work.run(["se-02"], None)
    assert list((folder.elements / "se-02").iterdir()) == []
    assert not list(folder.elements.glob(".*"))


def test_the_folder_of_an_element_may_be_a_mount_point(
    root: Path, tmp_path: Path, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be renamed; a disk of its own for each element is what docs/operations/install.md asks for."""
    data = put(root, b"content")
    made = tmp_path / "2026-01-01T00-00-00Z"
    manifest = manifest_of(root, made)
    place = folder.elements / "se-02"
    (place / "lost+found").mkdir(parents=True)
    (place / "files").mkdir()
    (place / "element.json").write_text("present")
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == place)
    number, work = place.stat().st_ino, restore.Restore(LocalSystem(folder), made, manifest, lambda _: None)
    work.run(["se-02"], None)
    assert place.stat().st_ino == number
    assert (place / data).read_bytes() == b"content"
    (replaced,) = map(Path, work.replaced)
    assert replaced.parent == place
    assert {one.name for one in replaced.iterdir()} == {"files", "element.json"}
    assert (replaced / "element.json").read_text() == "present"
    assert {one.name for one in place.iterdir()} == {"files", "element.json", "lost+found", replaced.name}


def test_the_folder_of_an_element_may_be_a_symbolic_link(root: Path, tmp_path: Path, folder: DataFolder) -> None:
    """It leads to the disk that the files must stay on."""
    data = put(root, b"content")
    made = tmp_path / "2026-01-01T00-00-00Z"
    manifest = manifest_of(root, made)
    disk, place = tmp_path / "disk", folder.elements / "se-02"
    (disk / "files").mkdir(parents=True)
    folder.elements.mkdir(exist_ok=True)
    place.symlink_to(disk)
    work = restore.Restore(LocalSystem(folder), made, manifest, lambda _: None)
    work.run(["se-02"], None)
    assert place.is_symlink()
    assert (disk / data).read_bytes() == b"content"
    assert [Path(one).name.startswith("replaced-") for one in work.replaced] == [True]


def artstore(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("cli", "shared"))}
    program = [sys.executable, "-m", "artstore_cli", *arguments]
    return subprocess.run(
        program, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_restore_that_nobody_can_confirm_is_refused_and_replaces_nothing(tmp_path: Path, folder: DataFolder) -> None:
    made = tmp_path / "2026-01-01T00-00-00Z"
    (made / "elements" / "se-02").mkdir(parents=True)
    element_copy = {"element_id": "se-02", "files": 0, "copied": 0, "copied_bytes": 0, "damaged": []}
    manifest = {"began_at": AT, "ended_at": AT, "dump_sha256": "", "dump_bytes": 0, "elements": [element_copy]}
    (made / "manifest.json").write_text(json.dumps({**manifest, "has_keys": False, "not_included": []}))
    for options in ([], ["--json"]):
        refused = artstore("restore", str(made), "--data", str(folder.path), "--only", "se-02", *options)
        assert (refused.returncode, "add --yes" in refused.stderr, refused.stdout) == (2, True, ""), refused.stderr
    assert json.loads(refused.stderr.splitlines()[-1])["error"]["code"] == "usage"
    assert not list(folder.path.glob("replaced-*"))


def test_the_list_of_what_to_copy_is_also_json(tmp_path: Path, folder: DataFolder) -> None:
    arguments = ("backup", str(tmp_path), "--data", str(folder.path), "--list")
    plain, listed = artstore(*arguments), json.loads(artstore(*arguments, "--json").stdout)["to_copy"]
    assert plain.stdout.splitlines() == [f"{one['what']}   # {one['note']}" for one in listed]
    assert str(folder.keys) in {one["what"] for one in listed}


def test_a_restore_to_containers_empties_all_servers_of_a_cluster(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        for number in range(50):
            cluster.master_of(str(number)).run("SET", str(number), "x")
        # one seed is enough to find the others
        url = SecretStr(f"redis+cluster://127.0.0.1:1,127.0.0.1:{cluster.nodes[0].port}")
        settings = BackupSettings(database_url=SecretStr("postgresql://tests@127.0.0.1:1/tests"), redis_url=url)
        ContainerSystem(settings)._on_redis("FLUSHALL")
        assert [int(node.run("DBSIZE")) for node in cluster.nodes[:MASTERS]] == [0] * MASTERS


def test_a_restore_to_containers_names_an_element_that_has_no_volume(tmp_path: Path) -> None:
    settings = BackupSettings(database_url=SecretStr("postgresql+asyncpg://a:b@c/d"))
    system = ContainerSystem(settings, tmp_path)
    (tmp_path / "se-01").mkdir()
    assert system.place_of("se-01") == tmp_path / "se-01" / "store"
    with pytest.raises(CommandError, match="se-09, which has no volume here"):
        system.place_of("se-09")


@pytest.mark.parametrize("lost", ["element.json", "files", "se-02"])
def test_an_element_whose_disk_is_not_mounted_stops_the_backup(root: Path, tmp_path: Path, lost: str) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.elements.mkdir(parents=True)
    mounted = root.rename(folder.elements / "se-02")
    assert backup.check_roots(LocalSystem(folder).roots(), ["se-02"]) == {"se-02": mounted}
    gone = mounted if lost == "se-02" else mounted / lost
    gone.rename(tmp_path / "elsewhere")
    with pytest.raises(CommandError, match="is its disk mounted"):
        backup.check_roots(LocalSystem(folder).roots(), ["se-02"])


def test_keys_are_opened_by_their_passphrase_only(tmp_path: Path) -> None:
    folder, sealed = tmp_path / "keys", tmp_path / "keys.enc"
    folder.mkdir()
    (folder / "secret").write_text("value")
    keys.seal(folder, sealed, b"correct horse battery")
    assert b"value" not in sealed.read_bytes()
    keys.unseal(sealed, tmp_path / "opened", b"correct horse battery")
    assert (tmp_path / "opened" / "secret").read_text() == "value"
    assert (tmp_path / "opened" / "secret").stat().st_mode & 0o777 == 0o600
    changed = bytearray(sealed.read_bytes())
    changed[-1] ^= 1
    for content, passphrase in (
        (sealed.read_bytes(), b"wrong"),
        (bytes(changed), b"correct horse battery"),
        (b"", b"x"),
    ):
        sealed.write_bytes(content)
        with pytest.raises(CommandError, match="cannot be opened"):
            keys.unseal(sealed, tmp_path / "refused", passphrase)
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("content", ["", "short", "\n"])
def test_a_weak_passphrase_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "passphrase").write_text(content)
    with pytest.raises(CommandError):
        keys.read_passphrase(tmp_path / "passphrase")


def test_an_incomplete_backup_is_not_restored(tmp_path: Path, folder: DataFolder) -> None:
    (tmp_path / "2026-01-01T00-00-00Z").mkdir()
    (tmp_path / "2026-01-01T00-00-00Z" / "postgres.dump").write_bytes(b"")
    with pytest.raises(CommandError, match="no complete backup"):
        restore.find_backup(tmp_path)


def test_a_backup_inside_the_data_folder_is_refused(folder: DataFolder) -> None:
    folder.postgres.mkdir()
    (folder.postgres / "PG_VERSION").write_text("18")
    with pytest.raises(CommandError, match="inside the data folder"):
        backup.back_up(LocalSystem(folder), folder.path / "backups", backup.Wanted())

"""A backup that is older than the disks brings a system back that has lost PostgreSQL, Redis, its keys and one element."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families
from support.fleet import eventually
from support.stored import Store
from support.system import System, free_port_base, own_system, run

PASSPHRASE = "correct horse battery staple"


def newest_backup(system: System) -> float:
    """As admin exports it; 0 without any."""
    text = httpx.get(f"{system.url('admin')}/metrics").text
    return max(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "backup_last_success_timestamp_seconds"
    )


def test_a_system_that_lost_nearly_everything_comes_back(tmp_path: Path) -> None:
    backups, passphrase = tmp_path / "backups", tmp_path / "passphrase"
    passphrase.write_text(PASSPHRASE + "\n")
    with own_system() as system:
        assert system.data is not None
        data, store = str(system.data), Store(system)
        old = [
            store.put("temporary", 100, "old"),
            store.put("permanent", 200_000, "old"),
            store.put("permanent", 9, "old"),
        ]
        account = system.new_account("USER")
        assert store.ask("POST", "admin", "/api/storage-elements/se-03/mode", json={"mode": "ro"}).status_code == 200

        done = run("backup", str(backups), "--data", data, "--keys-passphrase-file", str(passphrase), "--json")
        first = json.loads(done.stdout)
        assert [element["files"] for element in first["elements"]] == [1, 2, 0]
        newer = [store.put("temporary", 50, "new"), store.put("permanent", 50, "new")]
        store.ask("PATCH", "ingester", f"/api/files/{old[0]}", json={"tags": ["renamed"]})
        second = json.loads(run("backup", str(backups), "--data", data, "--json").stdout)
        assert [element["copied"] for element in second["elements"]] == [2, 1, 0], "what the first has is linked"
        eventually(lambda: newest_backup(system) > datetime.fromisoformat(first["ended_at"]).timestamp())
        restored = store.put("temporary", 70, "new")
        change_a_copy(first["backup"], tmp_path / "copy", passphrase, old[0])
        assert store.has(old[0]), "the copy has changed files of its own only"

        refused = run("restore", str(backups), "--data", data, "--yes", check=False)
        assert (refused.returncode, "already runs" in refused.stderr) == (1, True)
        run("down", "--data", data)
        for lost in ("postgres", "valkey", "keys", "elements/se-02"):
            shutil.rmtree(system.data / lost)
        wrong = tmp_path / "wrong"
        wrong.write_text("another passphrase")
        options = ["--data", data, "--yes", "--only", "postgres", "--only", "se-02", "--only", "keys"]
        refused = run("restore", first["backup"], *options, "--keys-passphrase-file", str(wrong), check=False)
        assert (refused.returncode, "passphrase" in refused.stderr) == (1, True)
        run("restore", first["backup"], *options, "--keys-passphrase-file", str(passphrase))
        run("up", "--data", data, "--port-base", str(system.base), "--detach")

        assert system.token(account["client_id"], account["client_secret"])
        eventually(lambda: all(store.has(file_id) for file_id in [*old, newer[0], restored]))
        assert not store.has(newer[1]), "it was only on the disk that is gone"
        eventually(lambda: store.listed("new") == {newer[0], restored})
        assert store.listed("renamed") == {old[0]}
        assert store.listed("old") == set(old[1:])
        elements = store.ask("GET", "admin", "/api/storage-elements").json()["items"]
        assert {element["id"]: element["mode"] for element in elements}["se-03"] == "ro"
        assert store.ask("GET", "admin", "/api/audit/verify").json()["ok"] is True
        assert store.put("permanent", 10, "after")


def change_a_copy(backup: str, data: Path, passphrase: Path, file_id: str) -> None:
    """Restore to another folder, start on other ports while the system still runs, and delete a file there."""
    base = free_port_base()
    run("restore", backup, "--data", str(data), "--yes", "--keys-passphrase-file", str(passphrase))
    run("up", "--data", str(data), "--port-base", str(base), "--detach")
    try:
        copy = Store(System(base, data / "keys", data))
        assert copy.ask("GET", "query", f"/api/files/{file_id}").status_code == 200
        assert copy.ask("DELETE", "ingester", f"/api/files/{file_id}").status_code == 204
        assert copy.ask("GET", "query", f"/api/files/{file_id}").status_code == 404
    finally:
        run("down", "--data", str(data))


def test_what_a_restore_replaces_is_kept_and_files_in_s3_are_added(tmp_path: Path) -> None:
    with own_system("--s3") as system:
        assert system.data is not None
        data, store = str(system.data), Store(system)
        store.put("permanent", 100, "kept")
        assert store.ask("POST", "admin", "/api/storage-elements/se-02/mode", json={"mode": "ro"}).status_code == 200
        eventually(lambda: store.ask("GET", "admin", "/api/storage-elements").json()["items"][1]["mode"] == "ro")
        in_s3 = eventually_on(store, "se-03")
        run("backup", str(tmp_path), "--data", data)
        run("down", "--data", data)
        shutil.rmtree(system.data / "seaweedfs")
        stopped = json.loads(run("backup", str(tmp_path / "2"), "--data", data, "--no-s3", "--json").stdout)
        assert stopped["not_included"] == ["se-03: s3://artstore/se-03"]
        done = json.loads(run("restore", str(tmp_path), "--data", data, "--yes", "--json").stdout)
        assert done["restored"] == ["postgres", "se-01", "se-02", "se-03"]
        assert all((Path(done["replaced"]) / part).is_dir() for part in ["postgres", "se-01", "se-02", "valkey"])
        run("up", "--data", data, "--port-base", str(system.base), "--detach", "--s3")
        eventually(lambda: all(store.has(file_id) for file_id in [*store.files, in_s3]))


def eventually_on(store: Store, element: str) -> str:
    """Store files until one is on this element: the ingester hears of a changed mode a moment later."""
    for _ in range(100):
        file_id = store.put("permanent", 200_000, "in-s3")
        if file_id in store.on(element):
            return file_id
    raise AssertionError(f"no file was put on {element}")

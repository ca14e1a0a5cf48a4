"""`artstore verify DIR` on folders made here by hand: no service has ever run on them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from artstore.clock import uuid7
from artstore.contracts.files import Attributes, encode

CLI = Path(__file__).parents[1]


def put(folder: Path, content: bytes, element_id: str = "se-01") -> Path:
    file_id = str(uuid7())
    data = folder / "files" / file_id[-4:-2] / file_id[-2:] / file_id
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_bytes(content)
    attributes = Attributes(
        file_id=file_id,
        revision=1,
        filename="Договор №5.pdf",
        content_type="application/pdf",
        size_bytes=len(content),
        checksum=f"sha256:{hashlib.sha256(content).hexdigest()}",
        storage_element_id=element_id,
        created_at="2026-01-01T00:00:00.000000Z",
        updated_at="2026-01-01T00:00:00.000000Z",
        owner="tests",
        tags=[],
        metadata={},
        retention="permanent",
        expires_at=None,
    )
    attributes_of(data).write_bytes(encode(attributes))
    return data


def attributes_of(data: Path) -> Path:
    return data.with_name(data.name + ".attr.json")


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(CLI), str(CLI.parent / "shared")])
    return subprocess.run(
        [sys.executable, "-m", "artstore_cli", "verify", str(folder), *options],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_an_undamaged_folder_passes(tmp_path: Path) -> None:
    for size in (0, 1, 70_000, 3_000_000):
        put(tmp_path, os.urandom(size))
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("sound")
    verdict = json.loads(run(tmp_path, "--json").stdout)
    assert (verdict["sound"], verdict["files"], verdict["bytes_read"]) == (True, 4, 3_070_001)


def test_each_damage_is_named_and_the_exit_code_says_so(tmp_path: Path) -> None:
    sound, flipped, short, broken, bare, lost, moved = (put(tmp_path, os.urandom(5000)) for _ in range(7))
    content = bytearray(flipped.read_bytes())
    content[2500] ^= 1
    flipped.write_bytes(content)
    os.truncate(short, 4999)
    attributes_of(broken).write_bytes(attributes_of(broken).read_bytes()[:-1])
    bare.unlink()
    attributes_of(lost).unlink()
    attributes_of(moved).write_bytes(attributes_of(sound).read_bytes())
    done = run(tmp_path, "--json")
    assert done.returncode == 1
    problems = {
        Path(one["path"]).name.removesuffix(".attr.json"): one["problem"] for one in json.loads(done.stdout)["findings"]
    }
    assert problems == {
        flipped.name: "hash_differs",
        short.name: "size_differs",
        broken.name: "attributes_damaged",
        bare.name: "data_missing",
        lost.name: "attributes_missing",
        moved.name: "misplaced",
    }
    assert run(tmp_path).stdout.rstrip().endswith("DAMAGED")


@pytest.mark.parametrize("folder", ["tmp", "quarantine"])
def test_leftovers_are_reported_as_remarks(tmp_path: Path, folder: str) -> None:
    put(tmp_path, b"sound")
    (tmp_path / folder).mkdir()
    (tmp_path / folder / f"{uuid7()}.1").write_bytes(b"left")
    done = run(tmp_path, "--json")
    assert done.returncode == 0
    assert [one["damage"] for one in json.loads(done.stdout)["findings"]] == [False]


def test_a_folder_without_an_element_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "files/" in done.stderr


def test_verify_writes_nothing(tmp_path: Path) -> None:
    data = put(tmp_path, b"sound")
    os.truncate(data, 1)
    before = sorted((str(path), path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    run(tmp_path)
    assert sorted((str(path), path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


STRAYS = [".DS_Store", "Thumbs.db", ".nfs00000000deadbeef", "lost+found", "@eaDir", "desktop.ini", "~$report.docx"]


def test_foreign_files_are_strays_not_damage(tmp_path: Path) -> None:
    data = put(tmp_path, b"sound")
    other = str(uuid7())
    names = [
        *STRAYS,
        f"._{data.name}",
        f"._{data.name}.attr.json",
        f".{data.name}.attr.json.Xy12Zz",
        f"{data.name}.attr.json.tmp",
        f"{data.name} (conflicted copy)",
        f"{other[:-4]}{'0000' if data.name[-4:] != '0000' else '0001'}",
    ]
    for folder in (data.parent, data.parents[1], data.parents[2]):
        for name in names:
            (folder / name).write_bytes(b"\0\5\x16\7")
    (data.parent / "a folder").mkdir()
    strange = os.fsencode(data.parent) + b"/\xff.txt"
    with open(strange, "wb"):
        pass
    for options in ([], ["--json"]):
        done = run(tmp_path, *options)
        assert (done.returncode, done.stderr) == (0, "")
    verdict = json.loads(done.stdout)
    assert {one["problem"] for one in verdict["findings"]} == {"stray"}
    assert len(verdict["findings"]) == 3 * len(names) + 2
    assert verdict["files"] == 1
    assert any(one["path"].endswith("\\xff.txt") for one in verdict["findings"])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"filename": "a\0b"}, "unfit_for_catalog"),
        ({"metadata": {"a": ["\0"]}}, "unfit_for_catalog"),
        ({"revision": 3_000_000_000}, "unfit_for_catalog"),
        ({"size_bytes": 2**63}, "size_differs"),
        ({"created_at": "2026-W01-1T00:00:00Z"}, "unfit_for_catalog"),
        ({"filename": "x" * 3000}, "unfit_for_catalog"),
        ({"metadata": {"n": 10**29}}, "unfit_for_catalog"),
        ({"metadata": {"n": float("nan")}}, "attributes_damaged"),
        ({"metadata": {"n": "\ud800"}}, "attributes_damaged"),
        ({"tags": [1]}, "attributes_damaged"),
    ],
)
def test_an_odd_attr_json_is_one_finding_with_a_reason(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    odd, sound = put(tmp_path, b"odd"), put(tmp_path, b"sound")
    fields = json.loads(attributes_of(odd).read_bytes())
    attributes_of(odd).write_text(json.dumps({**fields, **change}), encoding="utf-8")
    for options in ([], ["--json"]):
        done = run(tmp_path, *options)
        assert (done.returncode, done.stderr) == (int(problem != "unfit_for_catalog"), "")
    (finding,) = json.loads(done.stdout)["findings"]
    assert (finding["problem"], Path(finding["path"]).name.removesuffix(".attr.json")) == (problem, odd.name)
    assert finding["detail"]
    assert json.loads(done.stdout)["files"] == 2
    assert sound.exists()


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    data = put(tmp_path, b"sound")
    attributes_of(data).write_bytes(b"\xef\xbb\xbf" + attributes_of(data).read_bytes())
    assert json.loads(run(tmp_path, "--json").stdout)["findings"] == []


def test_an_unreadable_file_is_one_finding_and_the_check_continues(tmp_path: Path) -> None:
    pipe, folder, loop, sound = (put(tmp_path, b"x") for _ in range(4))
    for path, make in (
        (pipe, os.mkfifo),
        (attributes_of(folder), os.mkdir),
        (loop, lambda path: os.symlink(path, path)),
    ):
        path.unlink()
        make(path)
    done = run(tmp_path, "--json")
    verdict = json.loads(done.stdout)
    assert (done.returncode, done.stderr, verdict["files"]) == (1, "", 4)
    assert sorted(one["problem"] for one in verdict["findings"]) == ["unreadable"] * 3
    assert sound.exists()

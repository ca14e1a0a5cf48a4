"""`artstore verify DIR` on folders made here by hand: no service has ever run on them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_a_sound_folder_is_called_sound(tmp_path: Path) -> None:
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
def test_leftovers_are_remarks_and_no_damage(tmp_path: Path, folder: str) -> None:
    put(tmp_path, b"sound")
    (tmp_path / folder).mkdir()
    (tmp_path / folder / f"{uuid7()}.1").write_bytes(b"left")
    done = run(tmp_path, "--json")
    assert done.returncode == 0
    assert [one["damage"] for one in json.loads(done.stdout)["findings"]] == [False]


def test_a_folder_that_is_no_elements_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "files/" in done.stderr


def test_nothing_is_written(tmp_path: Path) -> None:
    data = put(tmp_path, b"sound")
    os.truncate(data, 1)
    before = sorted((str(path), path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    run(tmp_path)
    assert sorted((str(path), path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before

"""put and get: what goes in comes out, also after an interruption; and nothing is written where it must not."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from support.system import System

from artstore_cli.commands.get import local_name
from artstore_cli.put_sources import LocalFile, Skipped, Unreadable, find_files

from .conftest import TIMEOUT_S, Artstore

LARGE_BYTES = 160 << 20
"""Several parts of a resumable upload."""


@pytest.fixture
def large(artstore: Artstore) -> Path:
    path = artstore.folder / "large.bin"
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for number in range(LARGE_BYTES >> 20):
            file.write(number.to_bytes(8, "big") + block[8:])
    return path


def wait_until(true: Callable[[], object]) -> None:
    until_s = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < until_s
        time.sleep(0.002)


def test_a_folder_comes_back_whole(artstore: Artstore, mark: str) -> None:
    folder = artstore.folder / "in"
    (folder / "a b").mkdir(parents=True)
    contents = {
        "Договор №5.txt": b"",
        "one.txt": b"1",
        "a b/one.txt": os.urandom(70_000),
        "big.bin": os.urandom(3 << 20),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "folder-link").symlink_to("/etc")
    os.mkfifo(folder / "pipe")
    put = artstore.run("put", "in", "--tag", mark, "--metadata", "k=v=w", "--json")
    stored = {one["path"]: one["file"] for one in map(json.loads, put.stdout.splitlines())}
    assert stored.keys() == {f"in/{name}" for name in contents}
    assert len([line for line in put.stderr.splitlines() if json.loads(line)["warning"]["code"] == "skipped"]) == 3
    for name in contents:
        record = stored[f"in/{name}"]
        assert (record["filename"], record["tags"]) == (Path(name).name, [mark])
        assert record["metadata"] == {"path": name, "k": "v=w"}
    (artstore.folder / "out").mkdir()
    ids = [record["file_id"] for record in stored.values()]
    got = artstore.items("get", *ids, "-o", "out")
    by_id = {one["file"]["file_id"]: Path(one["path"]) for one in got}
    assert len(set(by_id.values())) == 4
    for name, content in contents.items():
        path = by_id[stored[f"in/{name}"]["file_id"]]
        assert (artstore.folder / path).read_bytes() == content
    assert len(os.listdir(artstore.folder / "out")) == 4


def test_standard_input_and_output(artstore: Artstore) -> None:
    (record,) = [json.loads(artstore.run("put", "-", "--name", "in.txt", "--json", given="words\n").stdout)["file"]]
    assert (record["filename"], record["size_bytes"]) == ("in.txt", 6)
    assert artstore.run("get", record["file_id"], "-o", "-").stdout == "words\n"
    nameless = json.loads(artstore.run("put", "-", "--json", given="").stdout)["file"]
    assert nameless["filename"] == nameless["file_id"]
    artstore.run("put", "-", "x", code=2)
    artstore.run("get", record["file_id"], "-o", "-", "--json", code=2)


def test_an_existing_file_is_replaced_only_on_request(artstore: Artstore) -> None:
    (artstore.folder / "x.txt").write_text("stored")
    (one,) = artstore.items("put", "x.txt")
    file_id = one["file"]["file_id"]
    assert artstore.items("get", file_id)[0]["path"] == "x.txt"
    (artstore.folder / "x.txt").write_text("edited")
    for output in (".", "x.txt"):
        error = artstore.error("get", file_id, "-o", output, code=7)
        assert (error["code"], error["path"]) == ("exists", file_id)
    assert (artstore.folder / "x.txt").read_text() == "edited"
    (artstore.folder / "x.txt").unlink()
    (artstore.folder / "elsewhere").write_text("stored")
    (artstore.folder / "x.txt").symlink_to("elsewhere")
    artstore.run("get", file_id, code=7)
    artstore.run("get", file_id, "--force")
    assert not (artstore.folder / "x.txt").is_symlink()
    assert (artstore.folder / "x.txt").read_text() == "stored"
    artstore.run("get", file_id, file_id[:-1] + "x", "-o", "x.txt", code=2)
    artstore.run("get", file_id, "-o", "nowhere/x.txt", code=1)


@pytest.mark.parametrize(
    ("stored", "local"),
    [
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\x.exe", "x.exe"),
        ("..", "_"),
        ("", "_"),
        (".bashrc", "_.bashrc"),
        ("-rf", "_-rf"),
        ("~", "_~"),
        ("a\x1b[2Jb\n.txt", "a_[2Jb_.txt"),
        ("a\u202etxt.exe", "a_txt.exe"),
        ("Договор №5.pdf", "Договор №5.pdf"),
    ],
)
def test_a_hostile_name_stays_in_its_folder(stored: str, local: str) -> None:
    assert local_name(stored) == local
    assert len(os.fsencode(local_name("." + "ы" * 200 + ".pdf"))) <= 255


def test_what_is_below_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "sub" / "f").write_bytes(b"12")
    (tmp_path / "d" / "l").symlink_to(tmp_path)
    (tmp_path / "named").symlink_to(tmp_path / "d" / "sub" / "f")
    monkeypatch.chdir(tmp_path)
    link, below, named, missing = find_files(["d", "named", "missing"])
    assert link == Skipped("d/l", "a symlink")
    assert isinstance(below, LocalFile)
    assert (below.path, below.size, below.below) == ("d/sub/f", 2, "sub/f")
    assert isinstance(named, LocalFile)
    assert (named.path, named.size, named.below) == ("named", 2, "")
    assert isinstance(missing, Unreadable)


def test_the_same_command_stores_only_what_is_missing(artstore: Artstore, mark: str) -> None:
    """A name that the service refuses is one failure among files that are stored; then it is mended."""
    folder = artstore.folder / "in"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.txt").write_text(str(number))
    (folder / "bad\x07name").write_text("bad")
    put = artstore.run("put", "in", "--tag", mark, code=1)
    assert "artstore: in/bad\\x07name: " in put.stderr
    assert "20 files stored (30 B), 1 failed" in put.stderr
    first = {line.split("\t")[0] for line in put.stdout.splitlines()}
    (folder / "bad\x07name").rename(folder / "good name")
    (folder / "3.txt").write_text("changed")
    put = artstore.run("put", "in", "--tag", mark)
    assert "2 files stored (10 B), 19 stored before" in put.stderr
    second = {line.split("\t")[0] for line in put.stdout.splitlines()}
    assert (len(first), len(second), len(first & second)) == (20, 21, 19)
    assert len(artstore.items("ls", "--tag", mark)) == 22
    assert not list(Path(artstore.environment["XDG_STATE_HOME"]).rglob("*.jsonl"))
    again = artstore.run("put", "in", "--tag", mark)
    assert "21 files stored (39 B)" in again.stderr


def test_a_put_that_was_killed_before_it_noted_the_answers_stores_nothing_twice(artstore: Artstore, mark: str) -> None:
    folder = artstore.folder / "in"
    folder.mkdir()
    for name in ("1.txt", "2.txt", "bad\x07name"):
        (folder / name).write_text(name)
    (folder / "large.bin").write_bytes(os.urandom((1 << 20) + 1))
    first = artstore.items("put", "in", "--tag", mark, code=1)
    (journal,) = Path(artstore.environment["XDG_STATE_HOME"]).rglob("*.jsonl")
    journal.write_text(journal.read_text().splitlines()[0] + '\n{"path": "half a li')
    assert sorted(one["path"] for one in first) == ["in/1.txt", "in/2.txt", "in/large.bin"]
    again = artstore.items("put", "in", "--tag", mark, code=1)
    assert {one["path"]: one["file"] for one in again} == {one["path"]: one["file"] for one in first}
    assert len(artstore.items("ls", "--tag", mark)) == 3
    anew = artstore.items("put", "in", "--tag", mark, "--again", code=1)
    assert len(anew) == 3
    assert len(artstore.items("ls", "--tag", mark)) == 6


def test_an_interrupted_put_of_a_folder_stores_nothing_twice(artstore: Artstore, mark: str) -> None:
    folder = artstore.folder / "in"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02}.bin").write_bytes(os.urandom((1 << 20) + number))
    with artstore.start("put", "in", "--tag", mark, "--jobs", "2", "--json") as put:
        assert put.stdout is not None
        put.stdout.readline()
        put.send_signal(signal.SIGINT)
        _, errors = put.communicate(timeout=TIMEOUT_S)
    assert put.returncode == 130, errors
    assert json.loads(errors.splitlines()[-1])["error"]["code"] == "interrupted"
    assert len(artstore.items("put", "in", "--tag", mark)) == 12
    assert len(artstore.items("ls", "--tag", mark)) == 12


def test_a_large_upload_continues_after_an_interruption(artstore: Artstore, system: System, large: Path) -> None:
    states = Path(artstore.environment["XDG_STATE_HOME"]) / "artstore" / "puts"
    with artstore.start("put", "large.bin", "--json") as put:
        wait_until(lambda: list(states.glob("*.upload")) or put.poll() is not None)
        put.send_signal(signal.SIGINT)
        _, errors = put.communicate(timeout=TIMEOUT_S)
    assert put.returncode == 130, errors
    (state,) = states.glob("*.upload")
    upload_id = json.loads(state.read_text())["upload_id"]
    (stored,) = artstore.items("put", "large.bin")
    assert stored["file"]["size_bytes"] == LARGE_BYTES
    with system.client() as client:
        upload: httpx.Response = client.get(f"{system.address}/api/uploads/{upload_id}")
    assert upload.json()["file_id"] == stored["file"]["file_id"]
    assert not list(states.iterdir())

    with artstore.start("get", stored["file"]["file_id"], "-o", "copy.bin") as get:
        wait_until(lambda: list(artstore.folder.glob("copy.bin.*.part")) or get.poll() is not None)
        get.send_signal(signal.SIGINT)
        get.communicate(timeout=TIMEOUT_S)
    assert get.returncode == 130
    assert not (artstore.folder / "copy.bin").exists()
    artstore.run("get", stored["file"]["file_id"], "-o", "copy.bin")
    assert sorted(os.listdir(artstore.folder)) == ["copy.bin", "large.bin"]
    with (artstore.folder / "copy.bin").open("rb") as copy, large.open("rb") as original:
        assert all(copy.read(1 << 20) == original.read(1 << 20) for _ in range(LARGE_BYTES >> 20))


def test_a_put_of_what_cannot_be_stored_says_why(artstore: Artstore) -> None:
    os.mkfifo(artstore.folder / "pipe")
    (artstore.folder / "x").write_text("x")
    assert artstore.error("put", "x", "./x", code=2)["code"] == "usage"
    assert "neither a file" in artstore.error("put", "pipe", code=1)["message"]
    assert artstore.error("put", "missing", code=1)["path"] == "missing"
    artstore.run("put", "x", "--ttl-days", "3", code=2)

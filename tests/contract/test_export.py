"""The program of docs/if-this-project-stops.md gets every file out of an element's folder, with the standard library alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from support.system import ROOT, System

PROGRAM = re.findall(r"```python\n(.*?)```", (ROOT / "docs/if-this-project-stops.md").read_text(), re.DOTALL)[0]
FILES = {  # by the name that the exported file has
    "report.txt": b"the first of this name",
    "Договор №5.pdf": os.urandom(200_000),
    "a name with 'quotes' and …": b"",
    "_outside.txt": b"a name that must not lead anywhere",
}
FORGED = {"_outside.txt": "../outside.txt"}
"""Names that no upload may have, written into attr.json by hand."""


@pytest.fixture(scope="module")
def element(system: System, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    """A copy of the folder of an element with FILES and a second report.txt, and the records of these."""
    assert system.data is not None
    records = []
    with system.client() as client:
        for name, content in (*FILES.items(), ("report.txt", b"the second")):
            answer = client.post(
                f"{system.address}/api/files/upload",
                params={"filename": name, "tags": json.dumps(["export"]), "retention": "temporary"},
                content=content,
                headers={"content-type": "application/octet-stream"},
            )
            records.append(stored(answer))
    folders = {record["storage_element_id"] for record in records}
    assert len(folders) == 1
    copy = tmp_path_factory.mktemp("export") / "element"
    shutil.copytree(system.data / "elements" / folders.pop() / "files", copy / "files")
    for record in records:
        if record["filename"] in FORGED:
            record["filename"] = FORGED[record["filename"]]
            next(copy.rglob(f"{record['file_id']}.attr.json")).write_text(json.dumps(record))
    return copy, records


def stored(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def export(folder: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Isolated from all that is installed."""
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(folder), str(target)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_every_file_is_exported_under_its_name_with_its_attributes(
    element: tuple[Path, list[dict[str, str]]], tmp_path: Path
) -> None:
    folder, records = element
    before = sorted(folder.rglob("*"))
    done = export(folder, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.json"))) == len(list(folder.rglob("*.attr.json")))
    assert sorted(folder.rglob("*")) == before
    for record in records:
        kept = json.loads((tmp_path / "out" / f"{record['file_id']}.json").read_text())
        assert kept == record
    for name, content in FILES.items():
        assert content in [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.name == name]
    both = {path.read_bytes() for path in (tmp_path / "out").rglob("report.txt")}
    assert both >= {b"the first of this name", b"the second"}


def test_damage_is_named_and_stops_nothing(element: tuple[Path, list[dict[str, str]]], tmp_path: Path) -> None:
    folder, records = element
    copy = tmp_path / "element"
    shutil.copytree(folder, copy)
    changed, lost = (next(copy.rglob(record["file_id"])) for record in records[:2])
    changed.write_bytes(b"other bytes")
    lost.unlink()
    done = export(copy, tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.endswith("\n2 files failed\n")
    assert f"{changed}.attr.json: its bytes do not match its checksum" in done.stderr
    assert str(lost) in done.stderr


def test_the_page_lists_every_attribute(element: tuple[Path, list[dict[str, str]]]) -> None:
    _, records = element
    page = (ROOT / "docs/if-this-project-stops.md").read_text()
    assert set(records[0]) == set(re.findall(r"`(\w+)`", page.partition("| member |")[2].partition("\n\n")[0])) - {
        "permanent",
        "temporary",
    }


def test_the_program_is_short() -> None:
    assert len(PROGRAM.splitlines()) <= 24

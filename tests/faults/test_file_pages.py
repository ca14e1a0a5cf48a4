"""The commands of the pages on one file, on a lost element and on a move do what the pages say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from support.fleet import eventually
from support.stored import Store
from support.system import ROOT, System, own_system, run


def follow(page: str, system: System, **variables: str) -> None:
    [commands] = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "operations" / page).read_text(), re.DOTALL)
    environment = {
        **os.environ,
        "DATA": str(system.data),
        "UP": f"--data {system.data} --port-base {system.base} --detach",
        "URL": system.address,
        **variables,
    }
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_deleted_file_and_a_lost_element_come_back_by_the_commands_of_the_pages(tmp_path: Path) -> None:
    with own_system() as system:
        assert system.data is not None
        store = Store(system)
        deleted, lost = store.put("temporary", 300, "deleted"), store.put("permanent", 200_000, "lost")
        done = json.loads(run("backup", str(tmp_path / "b"), "--data", str(system.data), "--json").stdout)
        assert store.ask("DELETE", "ingester", f"/api/files/{deleted}").status_code == 204
        follow("restore-a-file.md", system, BACKUP=done["backup"], ELEMENT="se-01", ID=deleted)
        eventually(lambda: store.has(deleted) and store.listed("deleted") == {deleted})

        shutil.rmtree(system.data / "elements" / "se-02")
        follow("replace-an-element.md", system, BACKUP=done["backup"], ELEMENT="se-02")
        eventually(lambda: store.has(lost) and store.listed("lost") == {lost})
        run("down", "--data", str(system.data))
        shutil.copytree(system.data / "elements" / "se-02", tmp_path / "new", ignore=shutil.ignore_patterns("tmp"))
        follow("move-an-element.md", system, NEW=str(tmp_path / "new"))

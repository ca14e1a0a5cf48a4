"""README and the first hour, in both languages: every command that they print works, in the order of the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.system import ROOT, System, own_system

TIMEOUT_S = 300
README, HOUR = "README{}.md", "docs/first-hour{}.md"
LANGUAGES = ("", ".ru")
NOT_RUN = re.compile(r"^(git clone|\./artstore up) .*\n", re.MULTILINE)
"""The test has a clone and a running system already."""
SHIM = """#!/bin/sh
case $1 in status | backup) set -- "$@" --data "$PWD/.artstore" ;; esac
exec {python} -m artstore_cli "$@"
"""
"""The system does not run on the folder of the source."""


def commands_of(page: str) -> str:
    return NOT_RUN.sub("", "".join(re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)))


@pytest.mark.parametrize("page", [README, HOUR])
def test_both_languages_have_the_same_commands(page: str) -> None:
    commands = [re.sub(r"(--name \"|echo ').*?[\"']", "", commands_of(page.format(language))) for language in LANGUAGES]
    assert commands[0] == commands[1]
    assert "./artstore put" in commands[0]


@pytest.fixture(scope="module")
def started() -> Iterator[System]:
    with own_system() as system:
        yield system


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_pages_can_be_followed(started: System, language: str, tmp_path: Path) -> None:
    system = started
    assert system.data is not None
    (tmp_path / ".artstore").symlink_to(system.data)
    (tmp_path / "README.md").write_bytes((ROOT / "README.md").read_bytes())
    folders = os.pathsep.join(str(ROOT / part) for part in ("cli", "clients/python", "shared"))
    shim = tmp_path / "artstore"
    shim.write_text(SHIM.format(python=sys.executable))
    shim.chmod(0o755)
    known = {name: value for name, value in os.environ.items() if not name.startswith(("ARTSTORE_", "XDG_"))}
    for page in (README, HOUR):
        commands = commands_of(page.format(language)).replace("http://localhost:8080", system.address)
        commands = commands.replace("create scanner", f"create scanner{language}")  # one account for each language
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", commands],
            cwd=tmp_path,
            env={**known, "PYTHONPATH": folders, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-2000:]}"

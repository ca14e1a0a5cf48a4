"""docs/cli.md: its examples run, and it names every command and exit code."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import typer
from support.system import ROOT, System

from artstore_cli.app import app
from artstore_cli.errors import ExitCode

from .conftest import TIMEOUT_S, Artstore

ALL_TIMEOUT_S = 3 * TIMEOUT_S
"""There are about forty commands."""

PAGE = (ROOT / "docs" / "cli.md").read_text()


def test_the_examples_of_the_page_run_in_their_order(stranger: Artstore, system: System, tmp_path: Path) -> None:
    examples = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
    folder = stranger.folder
    (folder / "scans" / "2026").mkdir(parents=True)
    (folder / "scans" / "2026" / "one.tif").write_bytes(b"one")
    (folder / "scans" / "two.tif").write_bytes(b"two")
    (folder / "report.txt").write_text("words of the report\n" * 200)
    shutil.copy(system.keys / "admin-client.json", folder)
    (folder / "secret.txt").write_text(system.credentials()["client_secret"])
    shim = tmp_path / "bin" / "artstore"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {shlex.join(stranger.program)} "$@"\n')
    shim.chmod(0o755)
    variables = {"URL": system.address, "PATH": f"{shim.parent}:{stranger.environment['PATH']}"}
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", examples],
        cwd=folder, env={**stranger.environment, **variables}, capture_output=True, text=True, timeout=ALL_TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "copy.txt").read_bytes() == (folder / "report.txt").read_bytes()
    assert (folder / "one.tif").read_bytes() == b"one"
    assert (folder / "scanner.json").stat().st_mode & 0o777 == 0o600
    for shown in ("scanner", "account:create", "committed", "contract", "/api/links/"):
        assert shown in done.stdout + done.stderr


def test_the_page_names_every_command(stranger: Artstore) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    missing = [
        f"{name} {below}".strip()
        for name, command in commands.items()
        for below in getattr(command, "commands", [""])
        if not re.search(rf"artstore {name} {below}\b" if below else rf"(artstore |`){name}\b", PAGE)
        and not re.search(rf"artstore {name} \w+`.*`{below}`", PAGE)
    ]
    assert not missing


def test_the_page_explains_every_exit_code() -> None:
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)} == {int(code) for code in ExitCode}

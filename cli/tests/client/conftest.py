"""One running system for all client commands, and the command as a process of its own."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.system import ROOT, System, own_system

TIMEOUT_S = 120
PREFORK = Path(__file__).parent / "prefork.py"
SOURCES = os.pathsep.join(str(ROOT / part) for part in ("cli", "clients/python", "shared"))


@dataclass(frozen=True)
class Artstore:
    """Runs `artstore` in `folder`, with a user's folders of its own below it."""

    folder: Path
    environment: dict[str, str]
    program: tuple[str, ...]

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        program = [*self.program, *arguments]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(program, cwd=self.folder, env=self.environment, text=True, **{**pipes, **options})

    def run(self, *arguments: str, code: int | None = 0, given: str = "") -> subprocess.CompletedProcess[str]:
        with self.start(*arguments) as process:
            out, errors = process.communicate(given, timeout=TIMEOUT_S)
        assert code is None or process.returncode == code, f"{process.returncode}\n{out}\n{errors}"
        return subprocess.CompletedProcess(arguments, process.returncode, out, errors)

    def items(self, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        """The lines of standard output with --json."""
        return [json.loads(line) for line in self.run(*arguments, "--json", code=code).stdout.splitlines()]

    def error(self, *arguments: str, code: int) -> dict[str, Any]:
        """The last error with --json."""
        line = self.run(*arguments, "--json", code=code).stderr.splitlines()[-1]
        error = dict(json.loads(line)["error"])
        assert error["exit_code"] == code
        return error

    def in_new_interpreter(self) -> Artstore:
        """As users start it."""
        return replace(self, program=(sys.executable, "-m", "artstore_cli"))

    def with_environment(self, **variables: str) -> Artstore:
        return replace(self, environment={**self.environment, **variables})


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    with own_system(RATE_PER_MINUTE="100000", RATE_BURST="100000") as started:
        yield started


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """Stands for `artstore`; starts in a tenth of the time."""
    path = str(tmp_path_factory.mktemp("prefork") / "socket")
    server = [sys.executable, str(PREFORK), "serve", path]
    with subprocess.Popen(server, env={**os.environ, "PYTHONPATH": SOURCES}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield sys.executable, "-I", "-S", str(PREFORK), "call", path
        process.terminate()


@pytest.fixture
def stranger(tmp_path: Path, program: tuple[str, ...]) -> Artstore:
    """Without any login."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ARTSTORE_", "XDG_"))}
    folders = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_STATE_HOME": str(tmp_path / "state")}
    work = tmp_path / "work"
    work.mkdir()
    return Artstore(work, {**kept, **folders, "PYTHONPATH": SOURCES, "HOME": str(tmp_path)}, program)


@pytest.fixture
def artstore(stranger: Artstore, system: System) -> Artstore:
    """As the first administrator, by the environment."""
    given = system.credentials()
    return stranger.with_environment(
        ARTSTORE_URL=system.address,
        ARTSTORE_CLIENT_ID=given["client_id"],
        ARTSTORE_CLIENT_SECRET=given["client_secret"],
    )


@pytest.fixture
def mark() -> str:
    """A tag that no other file has."""
    return f"mark-{secrets.token_hex(6)}"

"""Clients that are generated from the OpenAPI document of the one address compile, and upload, list and download a file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.system import ROOT, System

PYTHON_PACKAGES = ["openapi-python-client==0.29.1", "jinja2==3.1.6", "markupsafe", "ruamel.yaml==0.19.1"]
"""The packages of the generator that .venv lacks. Not in the lock: it demands an older typer than ./artstore."""
PYTHON_CONFIG = {"content_type_overrides": {"application/offset+octet-stream": "application/octet-stream"}}
"""The type of the bytes of a resumable upload, which the generator does not know."""
TIMEOUT_S = 240
DOCUMENT = ROOT / "gateway" / "openapi.json"
TYPESCRIPT = ROOT / "clients" / "typescript"
BUILT = shutil.ignore_patterns("node_modules", "dist", "generated", "example.ts", "*.tgz")


def run(command: list[str], folder: Path, given: str = "", **environment: str) -> str:
    """The output. Fails with it when the command fails."""
    done = subprocess.run(
        command,
        input=given,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout + done.stderr


def test_the_client_of_openapi_python_client(system: System, tmp_path: Path) -> None:
    pip = [getattr(sys, "_base_executable", sys.executable), "-m", "pip", "install", "-q", "--no-deps"]
    try:
        run([*pip, "--target", str(tmp_path / "tools"), *PYTHON_PACKAGES], tmp_path)
    except (AssertionError, subprocess.TimeoutExpired):
        pytest.skip("the generator cannot be installed: no pip, or no registry")
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it formats with ruff
    (tmp_path / "config.json").write_text(json.dumps(PYTHON_CONFIG))
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", str(DOCUMENT), "--meta", "none"]
    command += ["--output-path", "artstore_generated", "--config", "config.json"]
    output = run(command, tmp_path, PYTHONPATH=str(tmp_path / "tools"), PATH=programs)
    assert "WARNING" not in output.upper(), output
    run([sys.executable, "-m", "compileall", "-q", "artstore_generated"], tmp_path)
    given = json.dumps({**system.credentials(), "url": system.address})
    run([sys.executable, str(ROOT / "tests/support/generated_client.py")], tmp_path, given, PYTHONPATH=str(tmp_path))


def test_the_typescript_client(system: System, tmp_path: Path) -> None:
    """It is built as its README says, and the README's example does what it shows."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path / "clients" / "typescript"
    shutil.copytree(TYPESCRIPT, folder, ignore=BUILT)
    (tmp_path / "gateway").mkdir()
    shutil.copy(DOCUMENT, tmp_path / "gateway")
    try:
        run(["npm", "ci", "--silent", "--no-audit", "--no-fund", "--prefer-offline"], folder)
    except (AssertionError, subprocess.TimeoutExpired):
        pytest.skip("the npm registry cannot be reached")
    run(["npm", "run", "build"], folder)

    [example] = re.findall(r"```ts\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    (folder / "src" / "example.ts").write_text(example)
    shutil.copy(ROOT / "tests/support/generated_client.ts", folder / "src" / "everything.ts")
    run([str(folder / "node_modules/.bin/tsc")], folder)
    known = {**system.credentials(), "url": system.address}
    run(["node", "dist/everything.js"], folder, json.dumps(known))
    printed = run(["node", "dist/example.js"], folder, **{f"ARTSTORE_{key.upper()}": known[key] for key in known})
    assert re.fullmatch(r"sha256:[0-9a-f]{64} [1-9]\d* Paid on 1 May\n", printed), printed

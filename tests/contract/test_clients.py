"""Clients that are generated from the OpenAPI documents compile, and upload, list and download a file as they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from support.system import ROOT, System

SERVICES = ["admin", "ingester", "query"]
PYTHON_PACKAGES = ["openapi-python-client==0.29.1", "jinja2==3.1.6", "markupsafe", "ruamel.yaml==0.19.1"]
"""What .venv lacks of the generator. It is not part of the lock, because it demands an older typer than ./artstore."""
PYTHON_CONFIG = {"content_type_overrides": {"application/offset+octet-stream": "application/octet-stream"}}
"""The type of the bytes of a resumable upload, which the generator does not know."""
NPM_PACKAGES = ["@hey-api/openapi-ts@0.95.0", "typescript@5.9.3", "@types/node@20.19.0"]
TIMEOUT_S = 240
TSCONFIG = {
    "compilerOptions": {
        "strict": True,
        "noUncheckedIndexedAccess": True,
        "esModuleInterop": True,
        "target": "ES2022",
        "module": "CommonJS",
        "moduleResolution": "node10",
        "lib": ["ES2022", "DOM", "DOM.Iterable"],
        "types": ["node"],
        "outDir": "out",
        "skipLibCheck": True,
    },
    "include": ["src"],
}


@pytest.fixture(scope="module")
def documents(system: System, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("documents")
    for service in SERVICES:
        answer = httpx.get(f"{system.url(service)}/openapi.json")
        (folder / f"{service}.json").write_bytes(answer.content)
    return {service: folder / f"{service}.json" for service in SERVICES}


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


def addresses(system: System) -> str:
    return json.dumps({**system.credentials(), **{service: system.url(service) for service in SERVICES}})


def test_clients_of_openapi_python_client(system: System, documents: dict[str, Path], tmp_path: Path) -> None:
    pip = [getattr(sys, "_base_executable", sys.executable), "-m", "pip", "install", "-q", "--no-deps"]
    try:
        run([*pip, "--target", str(tmp_path / "tools"), *PYTHON_PACKAGES], tmp_path)
    except (AssertionError, subprocess.TimeoutExpired):
        pytest.skip("the generator cannot be installed: no pip, or no registry")
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it formats with ruff
    (tmp_path / "config.json").write_text(json.dumps(PYTHON_CONFIG))
    for service, document in documents.items():
        command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", str(document), "--meta", "none"]
        command += ["--output-path", f"{service}_client", "--config", "config.json"]
        output = run(command, tmp_path, PYTHONPATH=str(tmp_path / "tools"), PATH=programs)
        assert "WARNING" not in output.upper(), output
        run([sys.executable, "-m", "compileall", "-q", f"{service}_client"], tmp_path)
    script = ROOT / "tests/support/generated_client.py"
    run([sys.executable, str(script)], tmp_path, addresses(system), PYTHONPATH=str(tmp_path))


def test_clients_of_openapi_ts(system: System, documents: dict[str, Path], tmp_path: Path) -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    try:
        run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefer-offline", *NPM_PACKAGES], tmp_path)
    except (AssertionError, subprocess.TimeoutExpired):
        pytest.skip("the npm registry cannot be reached")
    tools, source = tmp_path / "node_modules/.bin", tmp_path / "src"
    for service, document in documents.items():
        command = [str(tools / "openapi-ts"), "-i", str(document), "-o", f"src/{service}"]
        run([*command, "-c", "@hey-api/client-fetch"], tmp_path)
    shutil.copy(ROOT / "tests/support/generated_client.ts", source / "client.ts")
    (tmp_path / "tsconfig.json").write_text(json.dumps(TSCONFIG))
    run([str(tools / "tsc")], tmp_path)
    run(["node", "out/client.js"], tmp_path, addresses(system))

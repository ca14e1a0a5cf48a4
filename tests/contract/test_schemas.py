"""The services do what their OpenAPI documents say: schemathesis calls every operation with right and wrong data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.system import System

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "allow_header_conformance",
]
"""Not `ignored_auth`: so many wrong tokens from one address are rightly answered 429; test_tokens.py forges them one by one."""
TIMEOUT_S = 120
HOOKS = Path(__file__).parents[1] / "support" / "schemathesis_hooks.py"


@pytest.mark.parametrize(
    ("service", "account"),
    [("admin", "admin"), ("se-01", "admin"), ("se-03", "ingester"), ("ingester", "admin"), ("query", "admin")],
)
def test_a_service_does_what_its_document_says(system: System, tmp_path: Path, service: str, account: str) -> None:
    token = (
        system.token() if account == "admin" else system.token(account, (system.keys / f"{account}.secret").read_text())
    )
    options = {
        "--header": f"Authorization: Bearer {token}",
        "--checks": ",".join(CHECKS),
        "--phases": "examples,coverage,fuzzing",
        "--max-examples": "5",
        "--seed": "4",
        "--request-timeout": "20",
        "--warnings": "off",
    }
    arguments = [part for option in options.items() for part in option]
    command: list[str | Path] = [
        Path(sys.executable).parent / "schemathesis",
        "run",
        f"{system.url(service)}/openapi.json",
    ]
    done = subprocess.run(
        [*command, *arguments, "--no-shrink", "--continue-on-failure"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(HOOKS)},
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]

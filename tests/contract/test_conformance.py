"""The services do what their OpenAPI documents say: schemathesis calls every operation with right and wrong data, and judges
the answers with all of its checks.

CONFORMANCE_S=120 runs it for two minutes per service instead of a few seconds, also with sequences of calls.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.system import ROOT, System, own_system

SHORT_S = 6
TIMEOUT_S = 240
MAX_REFUSED = 3
"""Operations of the ingester that had only answers to wrong tokens. More: the run had no valid one."""
FOLDER = ROOT / "tests/support/conformance"


@pytest.fixture(scope="module")
def tried() -> Iterator[System]:
    """A system of its own: the calls change whatever they find."""
    # the checks send wrong tokens, and an address with many of them is answered 429 for a while
    limits = {"IP_BLOCK_AFTER_FAILURES": "1000000", "IP_RATE_LIMIT_PER_MINUTE": "1000000", "LIMIT_LOOP_LAG_S": "5"}
    with own_system(**limits) as started:
        yield started


@pytest.mark.parametrize(
    ("service", "account"), [("query", "admin"), ("ingester", "admin"), ("se-01", "ingester"), ("admin", "admin")]
)
def test_a_service_does_what_its_document_says(tried: System, tmp_path: Path, service: str, account: str) -> None:
    login = {} if account == "admin" else {"client_id": account}
    secret = (tried.keys / f"{account}.secret").read_text() if login else None
    token = tried.token(login.get("client_id"), secret)
    run_s = int(os.environ.get("CONFORMANCE_S", SHORT_S))
    phases = "examples,coverage,fuzzing"  # the calls of a sequence depend on the answers, and so on the load
    options = {
        "--phases": f"{phases},stateful" if run_s > SHORT_S else phases,
        "--header": f"Authorization: Bearer {token}",
        "--max-time": str(run_s),
        "--seed": os.environ.get("CONFORMANCE_SEED", "7"),
        "--request-timeout": "20",
    }
    command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(FOLDER / "schemathesis.toml")]
    command += ["run", f"{tried.url(service)}/openapi.json", "--no-color", "--continue-on-failure"]
    done = subprocess.run(
        [*command, *(part for option in options.items() for part in option)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S + run_s,
        env={
            **os.environ,
            "PYTHONPATH": f"{FOLDER}{os.pathsep}{ROOT / 'shared'}",
            "SCHEMATHESIS_HOOKS": "values",
        },
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    refused = re.search(r"Authentication failed: (\d+) operations", done.stdout) if service == "ingester" else None
    assert refused is None or int(refused[1]) <= MAX_REFUSED, done.stdout[-4000:]

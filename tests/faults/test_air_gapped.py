"""A machine without a network installs, stores a file and gives it back, by the commands of docs/operations/air-gapped.md.

`./artstore test tests/faults/test_air_gapped`: it fetches all wheels, so it runs when it is named.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from support.system import ROOT, free_port_base

BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/operations/air-gapped.md").read_text(), re.DOTALL)
LOOPBACK_UP = """
import fcntl, socket, struct
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))
"""
TIMEOUT_S = 1200

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a network namespace")


def run(script: str, folder: Path, environment: dict[str, str], *prefix: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, "sh", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )


@pytest.fixture
def place() -> Iterator[Path]:
    """Not pytest's folder: the account that PostgreSQL runs as has to enter it."""
    with tempfile.TemporaryDirectory(prefix="artstore-air-gapped-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def test_the_commands_of_the_page_work_without_a_network(place: Path) -> None:
    outside, inside = (block.replace("/mnt/usb", str(place)) for block in BLOCKS)
    made = run(outside, ROOT, dict(os.environ))
    assert made.returncode == 0, made.stderr
    home = place / "home"
    home.mkdir()
    inside = inside.replace("--detach", f"--detach --port-base {free_port_base()}")
    (place / "loopback.py").write_text(LOOPBACK_UP)
    alone = (
        f"python3 {place / 'loopback.py'}\n! python3 -c \"import socket; socket.create_connection(('192.0.2.1', 9))\""
    )
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    done = run(f"{alone} 2>{place / 'no-network'}\n{inside}", place, environment, "unshare", "--net")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Network is unreachable" in (place / "no-network").read_text()
    assert "\nidentical\n" in done.stdout
    assert "stopped postgres, valkey, admin, se-01, se-02, se-03, ingester, query, gateway\n" in done.stdout

    bill = (place / "artstore" / "bundle" / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    components = {one["name"].lower().replace("_", "-"): one for one in json.loads(bill)["components"]}
    lock = (ROOT / "requirements" / "local.lock").read_text()
    locked = re.findall(r"^([a-z0-9.-]+)==(\S+)(?! ; sys_platform == 'win32')", lock, re.MULTILINE)
    assert len(locked) > 60
    missing = [name for name, version in locked if components.get(name, {}).get("version") != version]
    assert missing in ([], ["colorama"])  # for Windows only
    assert all("licenses" in one for one in components.values())

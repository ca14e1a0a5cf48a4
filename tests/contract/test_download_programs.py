"""Programs that people download with: they resume and split downloads, and the result is the file."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.system import System

CONTENT = os.urandom((5 << 20) + 17)
HALF = CONTENT[: 2 << 20]

Command = Callable[[str, str, Path], list[str]]
"""From URL, header and target."""
PROGRAMS: dict[str, tuple[bytes, Command]] = {
    "curl -C -": (HALF, lambda url, header, to: ["curl", "-sS", "-f", "-C", "-", "-H", header, "-o", str(to), url]),
    "wget -c": (HALF, lambda url, header, to: ["wget", "-q", "-c", f"--header={header}", "-O", str(to), url]),
    "aria2c -x4": (
        b"",
        lambda url, header, to: [
            "aria2c", "-q", "-x4", "-s4", "-k1M", f"--header={header}", "-d", str(to.parent), "-o", to.name, url,
        ],
    ),
    "rclone copyurl": (b"", lambda url, header, to: ["rclone", "copyurl", "--header", header, url, str(to)]),
}  # fmt: skip
"""By name: the part of the file that is there already, and the command."""


@pytest.fixture(scope="module")
def url(system: System) -> str:
    with system.client() as client:
        stored = client.post(f"{system.url('ingester')}/api/files/upload?filename=a.bin", content=CONTENT)
    assert stored.status_code == 201, stored.text
    return f"{system.url('query')}/api/files/{stored.json()['file_id']}/content"


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gets_the_whole_file(system: System, url: str, tmp_path: Path, name: str) -> None:
    begun, command = PROGRAMS[name]
    if shutil.which(name.split()[0]) is None:
        pytest.skip(f"{name.split()[0]} is not installed")
    target = tmp_path / "a.bin"
    if begun:
        target.write_bytes(begun)
    header = f"Authorization: Bearer {system.token()}"
    subprocess.run(command(url, header, target), check=True, capture_output=True, timeout=120)
    assert target.read_bytes() == CONTENT

"""Logs stay below a size while their processes write, whatever the disk does. Real processes that append."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from artstore_cli import log_rotation
from artstore_cli.log_rotation import KEPT, rotate

WRITES = """
import sys
for number in range(200_000):
    sys.stderr.write(f"{number:06} " + "x" * 60 + chr(10))
"""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(log_rotation, "MAX_BYTES", 100_000)
    return 100_000


def test_a_log_is_rotated_while_its_process_writes_and_no_line_is_cut(tmp_path: Path, small: int) -> None:
    log = tmp_path / "part.log"
    rotated = 0
    with log.open("ab") as file, subprocess.Popen([sys.executable, "-c", WRITES], stderr=file) as process:
        while process.poll() is None:
            rotated += rotate(log)
            assert len(list(tmp_path.iterdir())) <= KEPT + 2
            time.sleep(0.001)
    assert rotated > KEPT
    assert all(path.stat().st_size <= 2 * small for path in (tmp_path / "part.log.1", tmp_path / "part.log.2"))
    assert {path.name for path in tmp_path.iterdir()} == {"part.log", "part.log.1", "part.log.2"}
    lines = log.read_text().splitlines()
    assert not lines or lines[-1].startswith("199999 ")
    assert all(len(line) == 67 for line in lines)


FLOODS = """
import os
while True:
    os.write(2, b"x" * 4_000_000)
"""


def test_a_piece_is_bounded_however_late_it_is_rotated_and_however_fast_its_process_writes(
    tmp_path: Path, small: int
) -> None:
    log = tmp_path / "part.log"
    with log.open("ab") as file, subprocess.Popen([sys.executable, "-c", FLOODS], stderr=file) as process:
        try:
            for _ in range(3):
                while log.stat().st_size < 10 * small:
                    time.sleep(0.001)
                assert rotate(log)
                assert (tmp_path / "part.log.1").stat().st_size <= 2 * small
        finally:
            process.kill()


def test_a_small_log_is_left_alone(tmp_path: Path, small: int) -> None:
    log = tmp_path / "part.log"
    log.write_bytes(b"x" * small)
    assert not rotate(log)
    assert not rotate(tmp_path / "none.log")
    assert log.stat().st_size == small


def test_a_log_is_truncated_even_if_it_cannot_be_copied(tmp_path: Path, small: int) -> None:
    log = tmp_path / "part.log"
    log.write_bytes(b"x" * (small + 1))
    (tmp_path / "part.log.new").mkdir()  # as a disk without room refuses the copy
    rotate(log)
    assert log.stat().st_size == 0

"""Folders that servers under another user can enter, and the key generator as a command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from artstore_cli.data_folder import DataFolder

ROOT = Path(__file__).resolve().parents[2]

Generate = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def generate() -> Generate:
    def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, str(ROOT / "keys" / "generate.py"), str(folder), *options]
        return subprocess.run(program, capture_output=True, text=True, timeout=30)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    data = DataFolder(tmp_path / "data with a space")
    data.prepare()
    return data

"""Finds the source code of ArtStore, for the commands that need it. An installed `artstore` has none."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IN_REPOSITORY = (ROOT / "shared" / "artstore").is_dir()
LOCAL_DATA = Path(".artstore")


def default_data() -> Path:
    """The data folder of `up` without `--data`."""
    return ROOT / LOCAL_DATA if IN_REPOSITORY else LOCAL_DATA.absolute()

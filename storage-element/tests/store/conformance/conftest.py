"""Each test here runs once for each backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.store import durable
from app.store.backends.base import Backend
from app.store.paths import Paths

from ..places import Place, in_s3, on_disk, s3_settings


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "local":
        return on_disk
    return in_s3(s3_settings(request.getfixturevalue("s3")))


@pytest.fixture
def files(place: Place, tmp_path: Path) -> Backend:
    paths = Paths(str(tmp_path / "root"))
    durable.make_tree(paths.made_once())
    return place(paths)

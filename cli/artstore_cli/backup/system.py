"""A system as a backup sees it: of `./artstore up` (local.py), or of containers (containers.py)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from .database import Login
from .s3_files import S3Access


class BackedUpSystem(Protocol):
    """Methods raise CommandError."""

    @property
    def keys(self) -> Path | None:
        """The folder of the keys, where a backup may read and replace it."""

    def require_whole(self) -> None:
        """That there is a system to back up."""

    def refuse_target(self, target: Path) -> None:
        """Refuses a folder that would be lost together with the data."""

    def roots(self) -> Mapping[str, Path]:
        """The root of each element, by its id."""

    def database(self) -> AbstractContextManager[Login]:
        """While PostgreSQL runs, if need be only for that."""

    def s3(self) -> AbstractContextManager[S3Access]:
        """While the S3 service runs, if need be only for that."""

    def stopped(self) -> AbstractContextManager[None]:
        """While no module runs on the data."""

    def place_of(self, element_id: str) -> Path:
        """The place for the root of this element."""

    def aside(self, place: Path, moment: str) -> Path:
        """The folder on the same file system that keeps what a restore replaces."""

    def restore_database(self, dump: Path, moment: str) -> str:
        """Within `stopped`. Returns where the replaced database is kept, empty when there was none."""

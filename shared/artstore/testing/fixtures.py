"""pytest fixtures: one PostgreSQL, Valkey and SeaweedFS per test run, each started on first use.

A module's conftest.py imports the fixtures that it needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from artstore.testing.services import (
    PostgresServer,
    S3Server,
    ValkeyServer,
    start_postgres,
    start_s3,
    start_valkey,
    temporary_folder,
)
from artstore.testing.tokens import Signer


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    with temporary_folder("artstore-test-") as folder:
        yield folder


@pytest.fixture(scope="session")
def postgres(servers_folder: Path) -> Iterator[PostgresServer]:
    server = start_postgres(servers_folder)
    yield server
    server.discard()


@pytest.fixture(scope="session")
def valkey(servers_folder: Path) -> Iterator[ValkeyServer]:
    server = start_valkey(servers_folder)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def s3(servers_folder: Path) -> Iterator[S3Server]:
    server = start_s3(servers_folder)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer()

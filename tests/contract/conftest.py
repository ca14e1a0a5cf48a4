"""One system for all tests here, with what they need to play strangers and their proxy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.forger import Forger, load_forger
from support.system import System, own_system

ORIGIN = "https://desk.example"


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    settings = {
        "TRUSTED_PROXIES": "127.0.0.1",
        "GATEWAY_TRUSTED_PROXIES": "127.0.0.9",
        "CORS_ALLOWED_ORIGINS": ORIGIN,
        "IP_BLOCK_S": "3",
        "LIMIT_LOOP_LAG_S": "5",
        "AUDIT_CHECKPOINT_EVERY_S": "1",
    }
    with own_system(**settings) as started:
        yield started


@pytest.fixture(scope="session")
def forger(system: System) -> Forger:
    return load_forger(system)

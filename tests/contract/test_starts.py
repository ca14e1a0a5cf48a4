"""A service starts only with safe secrets; what is wrong is said in one line that does not repeat them."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

import pytest
from support.system import ROOT

from artstore.testing.preloaded import run

GOOD = secrets.token_urlsafe(32)
KEY = base64.b64encode(secrets.token_bytes(32)).decode()
COMMON = {"DATABASE_URL": "postgresql+asyncpg://postgres@127.0.0.1:1/artstore", "REDIS_URL": "redis://127.0.0.1:1/0"}
CLIENT = {"ADMIN_URL": "http://127.0.0.1:1", "SERVICE_CLIENT_ID": "one", "SERVICE_CLIENT_SECRET": GOOD}
NEEDED = {
    "admin-module": {**COMMON, "KEY_ENCRYPTION_KEY": KEY, "SECRET_HASH_KEY": KEY},
    "storage-element": {
        **COMMON,
        **CLIENT,
        "STORAGE_ELEMENT_ID": "se-01",
        "STORAGE_MODE": "rw",
        "STORAGE_ROOT": "/nowhere",
        "ELEMENT_URL": "http://127.0.0.1:1",
    },
    "ingester-module": {**COMMON, **CLIENT},
    "query-module": {**COMMON, **CLIENT},
}
UNSAFE = {
    "admin-module": ("KEY_ENCRYPTION_KEY", base64.b64encode(b"\0" * 32).decode()),
    "storage-element": ("DATABASE_URL", "postgresql+asyncpg://artstore:postgres@db/artstore"),
    "ingester-module": ("SERVICE_CLIENT_SECRET", "please-changeme-before-production-1234567890"),
    "query-module": ("REDIS_URL", "redis://:changeme@cache/0"),
}
"""One each: the rules are tested where they are, in shared."""


def refusal(module: str, changes: dict[str, str | None]) -> str:
    given = {name: value for name, value in {**NEEDED[module], "PORT": "1", **changes}.items() if value is not None}
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "shared"), **given}
    done = run(ROOT / module, environment)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("artstore: cannot start: ")
    return done.stderr


@pytest.mark.parametrize("module", NEEDED)
def test_an_unsafe_or_missing_secret_stops_the_start(module: str) -> None:
    name, value = UNSAFE[module]
    said = refusal(module, {name: value})
    assert name in said
    assert value not in said
    secret = next(name for name in ("SECRET_HASH_KEY", "SERVICE_CLIENT_SECRET") if name in NEEDED[module])
    assert f"{secret} is missing" in refusal(module, {secret: None})


@pytest.mark.parametrize("module", NEEDED)
def test_a_secret_in_a_file_that_everybody_may_read_stops_the_start(module: str, tmp_path: Path) -> None:
    secret = next(name for name in ("SECRET_HASH_KEY", "SERVICE_CLIENT_SECRET") if name in NEEDED[module])
    file = tmp_path / "secret"
    file.write_text(NEEDED[module][secret])
    file.chmod(0o644)
    said = refusal(module, {secret: None, f"{secret}_FILE": str(file)})
    assert f"{secret}_FILE is readable by every user: run chmod o= {file}" in said
    assert NEEDED[module][secret] not in said


def test_proxies_that_are_no_addresses_stop_the_start() -> None:
    assert "TRUSTED_PROXIES" in refusal("query-module", {"TRUSTED_PROXIES": "my-proxy"})

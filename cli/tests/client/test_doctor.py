"""`artstore doctor`: a healthy system passes, and each trouble is named with its remedy."""

from __future__ import annotations

import json
from pathlib import Path

from support.system import System

from .conftest import Artstore

AS_IN_DEVELOPMENT = {"tls", "metrics"}
"""Warnings about a new local system: no TLS, no Prometheus."""


def verdicts(artstore: Artstore, system: System, *options: str, code: int = 0) -> dict[str, set[str]]:
    """By verdict: the checks that have it."""
    found = artstore.items("doctor", "--data", str(system.data), *options, code=code)
    assert all(one["remedy"] for one in found if one["verdict"] != "pass")
    return {
        verdict: {one["check"] for one in found if one["verdict"] == verdict} for verdict in ("pass", "warn", "fail")
    }


def test_a_new_system_only_lacks_what_a_production_adds(artstore: Artstore, system: System) -> None:
    (artstore.folder / "a.txt").write_text("a")
    artstore.run("put", "a.txt")
    found = verdicts(artstore, system, code=1)
    assert found["warn"] == AS_IN_DEVELOPMENT
    assert found["fail"] == {"backups"}
    assert len(found["pass"]) >= 16
    assert "16 " not in artstore.run("doctor", "--data", str(system.data), code=1).stderr


def test_troubles_are_found(artstore: Artstore, system: System, tmp_path: Path) -> None:
    assert system.data is not None
    (artstore.folder / "b.txt").write_text("b")
    (put,) = artstore.items("put", "b.txt")
    file_id = put["file"]["file_id"]
    [attributes] = system.data.glob(f"elements/*/files/*/*/{file_id}.attr.json")
    kept, secret = attributes.read_bytes(), system.keys / "redis-password"
    login = system.keys / "database-url-query"
    mode, url = secret.stat().st_mode, login.read_text()
    try:
        attributes.write_bytes(json.dumps({**json.loads(kept), "checksum": f"sha256:{'0' * 64}"}).encode())
        secret.chmod(0o644)
        login.write_text((system.keys / "database-url").read_text())
        found = verdicts(artstore, system, "--backups", str(tmp_path), code=1)
    finally:
        attributes.write_bytes(kept)
        secret.chmod(mode)
        login.write_text(url)
    assert found["fail"] == {"catalog", "secrets", "database roles", "backups"}


def test_from_elsewhere_only_the_one_address_is_examined(artstore: Artstore) -> None:
    found = {one["check"]: one["verdict"] for one in artstore.items("doctor")}
    assert found["health"] == found["tokens"] == found["elements"] == "pass"
    assert found["secrets"] == found["catalog"] == found["backups"] == "warn"
    assert artstore.error("doctor", "--service", "admin", code=2)["code"] == "usage"

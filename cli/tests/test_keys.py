"""The generator of secrets: what it makes, what it leaves alone, what it refuses."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Generate = Callable[..., subprocess.CompletedProcess[str]]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_second_run_changes_nothing(tmp_path: Path, generate: Generate) -> None:
    assert generate(tmp_path).returncode == 0
    before = contents(tmp_path)
    assert generate(tmp_path).returncode == 0
    assert contents(tmp_path) == before


def test_every_secret_is_readable_by_its_owner_alone(tmp_path: Path, generate: Generate) -> None:
    generate(tmp_path / "keys")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("containers", [False, True])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, generate: Generate, mask: int, containers: bool) -> None:
    before = os.umask(mask)
    try:
        assert generate(tmp_path / "keys", *(["--containers"] if containers else [])).returncode == 0
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()}
    shared = {0o600, 0o640} if containers else {0o600}
    assert set(modes.values()) == shared
    for name in ("admin-client.json", "postgres-password"):
        assert modes[name] == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == (0o711 if containers else 0o700)


def test_a_file_mode_widened_by_a_copy_is_restored(tmp_path: Path, generate: Generate) -> None:
    generate(tmp_path / "keys")
    for path in (tmp_path / "keys").iterdir():
        path.chmod(0o666)
    assert generate(tmp_path / "keys").returncode == 0
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}


def test_a_folder_from_before_the_roles_gets_their_logins_and_keeps_its_own(tmp_path: Path, generate: Generate) -> None:
    generate(tmp_path)
    before = contents(tmp_path)
    new = {name for name in before if name.startswith("database-url-") or name == "database-roles.json"}
    for name in new:
        (tmp_path / name).unlink()
    assert generate(tmp_path).returncode == 0
    after = contents(tmp_path)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == new


def test_each_login_is_read_by_its_module_alone(tmp_path: Path, generate: Generate) -> None:
    assert generate(tmp_path / "keys", "--containers").returncode == 0
    groups = {path.name: path.stat().st_gid for path in (tmp_path / "keys").iterdir()}
    kinds = ("admin", "element", "ingester", "query")
    assert [groups[f"database-url-{kind}"] for kind in kinds] == [10001, 10002, 10003, 10004]
    assert groups["database-url"] == groups["database-roles.json"] == 10005


def test_no_two_folders_share_a_secret(tmp_path: Path, generate: Generate) -> None:
    generate(tmp_path / "a")
    generate(tmp_path / "b")
    one, other = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert one.keys() == other.keys()
    assert not [name for name in one if one[name] == other[name]]


def test_keys_are_32_bytes(tmp_path: Path, generate: Generate) -> None:
    generate(tmp_path)
    for name in ("key-encryption-key", "secret-hash-key"):
        assert len(base64.b64decode((tmp_path / name).read_text(), validate=True)) == 32


def test_only_what_is_missing_is_made(tmp_path: Path, generate: Generate) -> None:
    generate(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "query.secret").unlink()
    generate(tmp_path)
    changed = {name for name, text in contents(tmp_path).items() if text != before[name]}
    assert changed == set(), "the account's secret stands in the list of accounts: a new one would be refused"
    (tmp_path / "query.secret").unlink()
    (tmp_path / "accounts.json").unlink()
    generate(tmp_path)
    changed = {name for name, text in contents(tmp_path).items() if text != before[name]}
    assert changed == {"query.secret", "accounts.json"}


def test_each_module_gets_an_account_with_its_own_secret_and_no_more_permissions_than_it_needs(
    tmp_path: Path, generate: Generate
) -> None:
    generate(tmp_path)
    accounts = {entry["client_id"]: entry for entry in json.loads((tmp_path / "accounts.json").read_text())}
    admin = json.loads((tmp_path / "admin-client.json").read_text())
    assert accounts["admin"] == {**admin, "role": "ADMIN", "permissions": [], "rate_per_minute": 600_000}
    for client_id in ("se-01", "se-02", "se-03", "ingester", "query"):
        assert accounts[client_id]["client_secret"] == (tmp_path / f"{client_id}.secret").read_text()
        assert accounts[client_id]["role"] == "SERVICE"
    assert accounts["se-01"]["permissions"] == ["elements:report"]
    assert accounts["query"]["permissions"] == ["elements:read", "storage:read"]


def test_new_addresses_rewrite_the_urls_and_nothing_else(tmp_path: Path, generate: Generate) -> None:
    generate(tmp_path)
    before = contents(tmp_path)
    generate(tmp_path, "--database", "127.0.0.1:7001", "--redis", "127.0.0.1:7002")
    after = contents(tmp_path)
    urls = {name for name in after if name.startswith("database-url")}
    kinds = ("admin", "backup", "element", "ingester", "query")
    assert urls == {"database-url", *(f"database-url-{kind}" for kind in kinds)}
    assert {name for name in after if after[name] != before[name]} == {*urls, "redis-url"}
    roles = json.loads(after["database-roles.json"])
    for kind in ("admin", "element", "ingester", "query"):
        login = f"artstore_{kind}:{roles[f'artstore_{kind}']}"
        assert after[f"database-url-{kind}"] == f"postgresql+asyncpg://{login}@127.0.0.1:7001/artstore"
    assert (
        after["database-url"] == f"postgresql+asyncpg://artstore:{after['postgres-password']}@127.0.0.1:7001/artstore"
    )
    assert after["redis-url"] == f"redis://:{after['redis-password']}@127.0.0.1:7002/0"


def test_an_empty_or_damaged_secret_is_refused_in_one_line(tmp_path: Path, generate: Generate) -> None:
    for name, content in (("redis-password", "\n"), ("admin-client.json", "{")):
        folder = tmp_path / name
        generate(folder)
        (folder / name).write_text(content)
        refused = generate(folder)
        assert refused.returncode == 1
        assert name in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


def test_an_unwritable_folder_is_refused_in_one_line(generate: Generate) -> None:
    refused = generate(Path("/proc/artstore-keys"))
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1


def test_an_element_more_gets_an_account_and_keeps_it(tmp_path: Path, generate: Generate) -> None:
    generate(tmp_path)
    before = contents(tmp_path)
    assert generate(tmp_path, "--element", "se-04").returncode == 0
    after = contents(tmp_path)
    assert set(after) - set(before) == {"se-04.secret"}
    assert {name for name in before if before[name] != after[name]} == {"accounts.json"}
    accounts = {one["client_id"]: one for one in json.loads(after["accounts.json"])}
    assert accounts["se-04"]["permissions"] == accounts["se-01"]["permissions"] == ["elements:report"]
    assert accounts["se-04"]["client_secret"] == after["se-04.secret"]
    assert generate(tmp_path).returncode == 0
    assert contents(tmp_path) == after


@pytest.mark.parametrize("element", ["../se", "SE-04", "query", "admin", ""])
def test_an_id_that_no_element_can_have_is_refused(tmp_path: Path, generate: Generate, element: str) -> None:
    refused = generate(tmp_path, "--element", element)
    assert refused.returncode == 1
    assert "cannot be the id of an element" in refused.stderr
    assert not list(tmp_path.glob("*.secret"))

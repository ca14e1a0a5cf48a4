"""PostgreSQL and Valkey as `up` runs them: with passwords, durable, whole or not there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError

from artstore.local import postgres, valkey
from artstore.local.ports import choose_ports
from artstore.local.postgres import DEFAULT_VERSION, WHEELS, CannotRun, copy_wheel, find_account, load_program
from artstore_cli.data_folder import DataFolder
from artstore_cli.parts import serve_postgres, serve_valkey
from artstore_cli.processes import Command, spawn

PASSWORD = "a-secret-of-this-test"


def run(command: Command, is_ready: Callable[[int], bool]) -> subprocess.Popen[bytes]:
    process = spawn(command)
    deadline = time.monotonic() + 30
    while not is_ready(process.pid):
        assert process.poll() is None, command.log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def run_postgres(folder: DataFolder) -> tuple[subprocess.Popen[bytes], int]:
    account = find_account(folder.postgres)
    program = load_program(account)
    postgres.create_cluster(folder.postgres, program, account, PASSWORD)
    port = choose_ports(["postgres"], {})["postgres"]
    command = serve_postgres(folder, program, account, port)
    return run(command, lambda pid: postgres.is_ready(folder.postgres, pid)), port


async def connect(port: int, password: str = PASSWORD) -> asyncpg.Connection:
    return await asyncpg.connect(host="127.0.0.1", port=port, user="artstore", database="artstore", password=password)


async def test_postgres_requires_the_password_and_keeps_its_data(folder: DataFolder) -> None:
    for expected in (1, 2):
        process, port = run_postgres(folder)
        try:
            with pytest.raises(asyncpg.InvalidPasswordError):
                await connect(port, "wrong")
            connection = await connect(port)
            await connection.execute("CREATE TABLE IF NOT EXISTS kept (n serial)")
            await connection.execute("INSERT INTO kept DEFAULT VALUES")
            assert await connection.fetchval("SELECT count(*) FROM kept") == expected
            assert await connection.fetchval("SELECT lower('ДОГОВОР')") == "договор"
            for extension in ("pg_trgm", "unaccent"):
                await connection.execute(f"CREATE EXTENSION IF NOT EXISTS {extension}")
            await connection.close()
        finally:
            process.send_signal(serve_postgres(folder, Path(), None, 0).stop_signal)
            assert process.wait(120) == 0


def test_a_data_folder_that_was_only_half_made_is_made_anew(folder: DataFolder) -> None:
    unfinished = folder.path / "postgres.new"
    (unfinished / "base").mkdir(parents=True)
    account = find_account(folder.postgres)
    postgres.create_cluster(folder.postgres, load_program(account), account, PASSWORD)
    assert (folder.postgres / "PG_VERSION").exists()
    assert not unfinished.exists()


def test_a_failed_initialisation_leaves_nothing(folder: DataFolder) -> None:
    account = find_account(folder.postgres)
    with pytest.raises(CannotRun):
        postgres.create_cluster(folder.postgres, load_program(account), account, "breaks the ' statement")
    assert not folder.postgres.exists()
    assert not (folder.path / "postgres.new").exists()


def test_a_folder_that_holds_something_else_is_refused_and_kept(folder: DataFolder) -> None:
    folder.postgres.mkdir()
    (folder.postgres / "base").write_text("somebody's")
    with pytest.raises(CannotRun, match="PG_VERSION"):
        postgres.create_cluster(folder.postgres, Path(), None, PASSWORD)
    assert (folder.postgres / "base").read_text() == "somebody's"


@pytest.mark.parametrize("version", ["16", "19"])
def test_data_of_another_postgres_version_is_refused_with_the_remedy_and_kept(folder: DataFolder, version: str) -> None:
    folder.postgres.mkdir()
    (folder.postgres / "PG_VERSION").write_text(f"{version}\n")
    with pytest.raises(CannotRun, match=rf"PostgreSQL {version}, but .* dump it .* audit log are lost"):
        postgres.create_cluster(folder.postgres, Path(), None, PASSWORD)
    assert [path.name for path in folder.postgres.iterdir()] == ["PG_VERSION"]


def test_postgres_runs_below_a_folder_that_its_user_may_not_enter(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    folder = DataFolder(closed / "data")
    folder.prepare()
    process, _ = run_postgres(folder)
    assert os.stat(f"/proc/{process.pid}").st_uid != 0
    process.terminate()
    process.wait(120)


async def test_valkey_requires_the_password_and_keeps_its_data(folder: DataFolder) -> None:
    port = choose_ports(["valkey"], {})["valkey"]
    for round_number in (0, 1):
        command = serve_valkey(folder, port, PASSWORD)
        process = run(command, lambda _: valkey.is_ready(port, PASSWORD))
        assert not valkey.is_ready(port, "wrong")
        async with Redis(port=port, password=PASSWORD, decode_responses=True) as redis:
            assert await redis.get("kept") == (None, "yes")[round_number]
            await redis.set("kept", "yes")
        async with Redis(port=port, retry=Retry(NoBackoff(), 0)) as redis:
            with pytest.raises(AuthenticationError):
                await redis.ping()
        process.terminate()
        assert process.wait(120) == 0
    assert (folder.valkey / "valkey.conf").stat().st_mode & 0o777 == 0o600


def test_a_copy_of_the_wheel_is_enough_to_run_postgres(tmp_path: Path) -> None:
    wheel, folder = WHEELS[DEFAULT_VERSION]
    spec = importlib.util.find_spec(wheel)
    assert spec is not None
    assert spec.origin is not None
    copy_wheel(Path(spec.origin).parent / folder, tmp_path / "cache" / "copy")
    program = tmp_path / "cache" / "copy" / wheel / folder
    for name in ("initdb", "postgres"):
        assert subprocess.run([program / "bin" / name, "--version"], timeout=30).returncode == 0
    assert {path.stat().st_mode & 0o005 for path in (tmp_path / "cache").rglob("*") if path.is_dir()} == {0o005}

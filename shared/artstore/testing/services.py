"""PostgreSQL, Valkey and SeaweedFS for tests: from their wheels, on free ports, in temporary folders."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from artstore.local import postgres, seaweedfs, valkey
from artstore.local.ports import choose_ports, is_free

START_TIMEOUT_S = 120
POSTGRES_VERSION = "ARTSTORE_TEST_POSTGRES"
"""Environment variable: the major version that tests start, 18 or 17."""
LASTING_PORTS = (14_000, 32_000)


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """These processes and their children are stopped: they accept connections, and answer nothing."""
    every = [each for pid in pids for each in (pid, *_children_of(pid))]
    _signal(every, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(reversed(every), signal.SIGCONT)


def _children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # a connection of PostgreSQL may have ended in the meantime
            os.kill(pid, number)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def lasting_port() -> int:
    """A free port below the range that the system assigns itself, so it stays free while its server is
    restarted."""
    while True:
        port = LASTING_PORTS[0] + secrets.randbelow(LASTING_PORTS[1] - LASTING_PORTS[0])
        if is_free(port):
            return port


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"{process.args!r} did not open port {port} (exit status {process.poll()})")


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder that servers running as another user can enter."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True)
class PostgresServer:
    """A PostgreSQL server; each test module creates its own database."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    def url(self, database: str, port: int | None = None) -> str:
        """The URL for SQLAlchemy. `port` is that of a proxy in front of the server."""
        return f"postgresql+asyncpg://postgres@127.0.0.1:{port or self.port}/{database}"

    async def new_database(self) -> str:
        """The name of a fresh, empty database."""
        name = f"test_{secrets.token_hex(6)}"
        connection = await asyncpg.connect(host="127.0.0.1", port=self.port, user="postgres", database="postgres")
        try:
            await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()
        return name

    def stop(self) -> None:
        _end(self.process, signal.SIGINT)

    def discard(self) -> None:
        """Stops without a checkpoint, which takes seconds on a busy disk, because the data is discarded."""
        _end(self.process, signal.SIGQUIT)


@dataclass(slots=True)
class ValkeyServer:
    port: int
    process: subprocess.Popen[bytes]

    def url(self, database: int = 0, port: int | None = None) -> str:
        """The URL of a database. `port` is that of a proxy in front of the server."""
        return f"redis://127.0.0.1:{port or self.port}/{database}"

    def flush(self) -> None:
        """Deletes everything (FLUSHALL)."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=START_TIMEOUT_S) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            answer = connection.recv(64)
        if not answer.startswith(b"+OK"):
            raise RuntimeError(f"Valkey did not flush: {answer!r}")

    def stop(self) -> None:
        _end(self.process, signal.SIGTERM)


@dataclass(slots=True)
class S3Server:
    """SeaweedFS with one identity. It can be stopped and started again with the same port and data."""

    folder: Path
    ports: dict[str, int]
    access_key_id: str
    secret_access_key: str
    process: subprocess.Popen[bytes]

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3.port']}"

    def stop(self) -> None:
        _end(self.process, signal.SIGKILL)

    def start_again(self) -> None:
        self.process = _serve_s3(self.folder, self.ports)


def start_postgres(folder: Path, port: int | None = None) -> PostgresServer:
    """Runs initdb if the folder is empty, then starts the server with durable commits, which the tests rely
    on."""
    port = port or free_port()
    data = folder / "postgres"
    account = postgres.find_account(data)
    program = postgres.load_program(account, os.environ.get(POSTGRES_VERSION, postgres.DEFAULT_VERSION))
    if not (data / "PG_VERSION").exists():
        data.mkdir(mode=0o700, exist_ok=True)
        postgres.initdb(data, program, account, "postgres")
    command = postgres.server_command(program, port, shared_buffers="64MB", timezone="UTC")
    user, group = (account.uid, account.gid) if account else (None, None)
    with (folder / "postgres.log").open("ab") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log, user=user, group=group, cwd=data)
    wait_for_port(port, process)
    asyncio.run(_wait_until_it_answers(port))
    return PostgresServer(folder, port, process)


async def _wait_until_it_answers(port: int) -> None:
    for _ in range(START_TIMEOUT_S * 20):
        try:
            connection = await asyncpg.connect(host="127.0.0.1", port=port, user="postgres", database="postgres")
        except (asyncpg.CannotConnectNowError, OSError):
            await asyncio.sleep(0.05)
        else:
            await connection.close()
            return
    raise RuntimeError("PostgreSQL does not answer")


def start_valkey(folder: Path, port: int | None = None) -> ValkeyServer:
    port = port or free_port()
    process = subprocess.Popen(
        [valkey.find_server(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    wait_for_port(port, process)
    return ValkeyServer(port, process)


def start_s3(folder: Path) -> S3Server:
    """Starts SeaweedFS without telemetry, accessible only to its one identity. Tests create their own
    buckets."""
    data = folder / "s3"
    data.mkdir(mode=0o700)
    access_key_id, secret_access_key = secrets.token_hex(10), secrets.token_urlsafe(32)
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": access_key_id, "secretKey": secret_access_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (data / "identities.json").write_text(json.dumps({"identities": [identity]}))
    ports = choose_ports(seaweedfs.PORTS, {})
    return S3Server(data, ports, access_key_id, secret_access_key, _serve_s3(data, ports))


def _serve_s3(data: Path, ports: dict[str, int]) -> subprocess.Popen[bytes]:
    command = seaweedfs.command(data, ports, data / "identities.json", volume_limit_mb=128)
    with (data / "weed.log").open("ab") as log:
        process = subprocess.Popen(command, env=seaweedfs.environment(data), cwd=data, stdout=log, stderr=log)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if seaweedfs.is_healthy(ports["s3.port"]):
            return process
        time.sleep(0.05)
    raise RuntimeError(f"SeaweedFS did not start: {(data / 'weed.log').read_text()[-2000:]}")


def _end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    process.send_signal(how)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

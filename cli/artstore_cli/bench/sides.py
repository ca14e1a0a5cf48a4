"""The two systems that are compared: started in a folder of the bench on free ports, and ended with it."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artstore.local import seaweedfs
from artstore.local.ports import LOOPBACK, choose_ports, is_free

from ..data_folder import DataFolder, find_record
from ..errors import CommandError
from ..fleet import ADMIN_OFFSET, ELEMENTS, INGESTER_OFFSET, POSTGRES, QUERY_OFFSET
from ..process_id import POLL_S
from ..processes import Command, describe_end, spawn, tail
from ..running import LAUNCHER_TIMEOUT_S, status
from . import machine

START_TIMEOUT_S = 180
ANSWER_TIMEOUT_S = 60
BASES = range(20_000, 30_000, 40)
"""Port bases to try: below the ports that the kernel hands out by itself."""
OFFSETS = (ADMIN_OFFSET, *(element.port_offset for element in ELEMENTS), INGESTER_OFFSET, QUERY_OFFSET)
REQUESTS_PER_MINUTE = 600_000
"""Rate limit of the account that the load uses. It is checked as every other, and never reached."""


@dataclass(frozen=True, slots=True)
class ArtStore:
    folder: DataFolder
    port_base: int
    process: subprocess.Popen[bytes]
    client: Mapping[str, str]
    """Id and secret of an account with the role USER."""

    @property
    def ingester_port(self) -> int:
        return self.port_base + INGESTER_OFFSET

    @property
    def query_port(self) -> int:
        return self.port_base + QUERY_OFFSET

    def token(self) -> str:
        return str(call(self.port_base, "POST", "/api/auth/token", body=self.client)["access_token"])

    def administrator_token(self) -> str:
        return _administrator_token(self.folder, self.port_base)

    def cpu_s(self) -> float:
        return machine.cpu_s(self.process.pid)

    def memory_mb(self) -> dict[str, float]:
        record = find_record(self.folder)
        database = machine.tree(record.processes[POSTGRES].pid) if record else []
        others = set(machine.tree(self.process.pid)) - set(database)
        return {"services": machine.memory_mb(others), "postgresql": machine.memory_mb(database)}


@dataclass(frozen=True, slots=True)
class SeaweedFS:
    filer_port: int
    master_port: int
    process: subprocess.Popen[bytes]

    def cpu_s(self) -> float:
        return machine.cpu_s(self.process.pid)

    def memory_mb(self) -> dict[str, float]:
        return {"all": machine.memory_mb(machine.tree(self.process.pid))}


@contextmanager
def running_artstore(root: Path, folder: Path) -> Iterator[ArtStore]:
    """`./artstore up` as a child process, on the data that the folder has. Raises CommandError when it does not become ready."""
    folder.mkdir(exist_ok=True)
    data, log, base = DataFolder(folder / "data"), folder / "up.log", find_port_base()
    arguments = [sys.executable, "-m", "artstore_cli", "up", "--data", str(data.path), "--port-base", str(base)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(root / "cli"), str(root / "shared")))}
    process = spawn(Command(arguments, environment, root, log))

    def is_ready() -> bool:
        record = find_record(data)
        return record is not None and record.ready

    try:
        _wait("ArtStore", process, log, is_ready)
        if unready := [part for part in status(root, data) if not part.ok]:
            raise CommandError(f"ArtStore is not ready: {unready[0].name} is {unready[0].state}")
        yield ArtStore(data, base, process, _new_client(data, base))
    finally:
        with _uninterrupted():
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(LAUNCHER_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()  # its children receive their stop signals from the kernel
                process.wait()


@contextmanager
def running_seaweedfs(folder: Path) -> Iterator[SeaweedFS]:
    """Its master, volume server and filer in one process, without S3. Raises CommandError when it does not start."""
    folder.mkdir()
    log, ports = folder / "weed.log", choose_ports(seaweedfs.PORTS, {})
    command = seaweedfs.command(folder, ports)
    process = spawn(Command(command, seaweedfs.environment(folder), folder, log, signal.SIGKILL))

    def is_ready() -> bool:
        """The filer answers before the volume server has joined the master, but stores nothing until then."""
        try:
            send(ports["filer.port"], "PUT", "/started?fsync=true", b"started")
        except CommandError:
            return False
        return True

    try:
        _wait("SeaweedFS", process, log, is_ready)
        yield SeaweedFS(ports["filer.port"], ports["master.port"], process)
    finally:
        with _uninterrupted():
            process.kill()  # its data is thrown away, and asked to end it takes 15 s
            process.wait()
            seaweedfs.remove_sockets(ports)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C would leave a part running. Stopping has its own time limit."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def find_port_base() -> int:
    """A base whose ports are free now. Raises CommandError."""
    for base in sorted(BASES, key=lambda _: secrets.randbelow(1 << 30)):
        if all(is_free(base + offset) for offset in OFFSETS):
            return base
    raise CommandError(f"no free ports between {BASES.start} and {BASES.stop}")


def _wait(name: str, process: subprocess.Popen[bytes], log: Path, is_ready: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not is_ready():
        last = next(iter(tail(log, 1)), "it has printed nothing")
        if process.poll() is not None:
            raise CommandError(f"{name} did not start, it {describe_end(process.returncode)}: {last}")
        if time.monotonic() > deadline_s:
            raise CommandError(f"{name} did not start within {START_TIMEOUT_S} s: {last}")
        time.sleep(POLL_S)


def _new_client(data: DataFolder, admin_port: int) -> dict[str, str]:
    token = _administrator_token(data, admin_port)
    account = {"name": "bench", "role": "USER", "rate_per_minute": REQUESTS_PER_MINUTE}
    made = call(admin_port, "POST", "/api/service-accounts", body=account, token=token)
    return {name: made[name] for name in ("client_id", "client_secret")}


def _administrator_token(data: DataFolder, admin_port: int) -> str:
    administrator = json.loads((data.keys / "admin-client.json").read_text())
    return str(call(admin_port, "POST", "/api/auth/token", body=administrator)["access_token"])


def call(
    port: int, method: str, path: str, *, body: Mapping[str, Any] | None = None, token: str | None = None
) -> dict[str, Any]:
    """A JSON request to ArtStore. Raises CommandError."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    return dict(json.loads(send(port, method, path, b"" if body is None else json.dumps(body).encode(), headers)))


def send(port: int, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """One request to either side; returns the body of the answer. Raises CommandError for any status above 299."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise CommandError(f"{method} {path} at port {port}: {error}") from error
    finally:
        connection.close()
    if answer.status > 299:
        raise CommandError(f"{method} {path} at port {port}: status {answer.status}: {content[:200].decode('replace')}")
    return content

"""A server in a process of its own, and clients that mean it harm: what they cost in memory, and whom they lock out."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

HOSTILE = 20
MAX_GROWTH_BYTES = 20 << 20
ANSWER_BYTES = 40_000
"""As much as /metrics of a service."""
SERVER = f"""
import socket
from functools import partial
import uvicorn
from artstore.http import output
from artstore.http.connections import Connections
from artstore.http.protocol import Connection

output.STALL_S = 2.0
BODY = b"m" * {ANSWER_BYTES}

async def app(scope, receive, send):
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"{ANSWER_BYTES}")]}})
    await send({{"type": "http.response.body", "body": BODY}})

listening = socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen(512)
print(listening.getsockname()[1], flush=True)
http = partial(Connection, open_connections=Connections(200, 100))
uvicorn.Server(uvicorn.Config(app, loop="uvloop", http=http, ws="none", lifespan="off", log_config=None)).run([listening])
"""


@dataclass(frozen=True)
class Server:
    pid: int
    port: int

    def rss_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * 4096

    def peak_bytes(self) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))

    def connect(self) -> socket.socket:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def answers(self) -> bool:
        with self.connect() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            came = 0
            while piece := connection.recv(65536):
                came += len(piece)
        return came > ANSWER_BYTES


@pytest.fixture
def server() -> Iterator[Server]:
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        started = Server(process.pid, int(process.stdout.readline()))
        assert started.answers()
        yield started
    finally:
        process.kill()
        process.wait()


def send_all_it_takes(connection: socket.socket, data: bytes) -> None:
    """Until the other side takes no more."""
    connection.settimeout(0.3)
    try:
        connection.sendall(data)
    except OSError:
        return


GET = b"GET /metrics HTTP/1.1\r\nHost:x\r\n\r\n"
HEAD = b"POST / HTTP/1.1\r\nHost:x\r\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "sent",
    [
        GET * 12_000,
        GET * 120_000,
        (HEAD + b"content-length: 60000\r\n\r\n" + b"x" * 60_000) * 70,
        HEAD + b"x: " + b"a" * 1_000_000,
        HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000,
        HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"4\r\n\r\n\r\n\r\n" * 100_000,
        (HEAD + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 1\r\n\r\nx") * 8_000,
    ],
    ids=["pipelined", "pipelined-far-ahead", "contents-far-ahead", "head", "chunks", "line-ends", "upgrades"],
)
def test_hostile_connections_cost_little_and_end(server: Server, sent: bytes) -> None:
    before = server.rss_bytes()
    with ExitStack() as held:
        for _ in range(HOSTILE):
            send_all_it_takes(held.enter_context(server.connect()), sent)
        assert server.answers()
        assert server.peak_bytes() - before < MAX_GROWTH_BYTES
        if sent.startswith(GET):
            wait_until_closed(server.port)


def wait_until_closed(port: int) -> None:
    """No answer is read: the server must end every connection by itself."""
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        established = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        if not any(line[1].endswith(f":{port:04X}") and line[3] == "01" for line in established):
            return
        time.sleep(0.2)
    raise AssertionError("connections whose answers are not read stay open")


def test_idle_connections_over_every_limit_do_not_lock_out_other_clients(server: Server) -> None:
    with ExitStack() as held:
        for number in range(600):
            connection = held.enter_context(server.connect())
            if number % 2:
                connection.sendall(b"GET / HTT")
        assert all(server.answers() for _ in range(20))

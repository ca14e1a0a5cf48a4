"""A service process from SIGTERM to its exit: status 0, spans sent, and no collector or log holds it up. Real sockets."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from artstore.testing.services import free_port

SHARED = Path(__file__).resolve().parents[1]
TIMEOUT_S = 60
"""No promise: it only ends a test that would hang."""
PROGRAM = """
import asyncio
from contextlib import asynccontextmanager
from artstore import server
from artstore.config import ServiceSettings, load_settings
from artstore.contracts.tokens import Audience
from artstore.http import protocol
from artstore.http.data_routes import DataRoute
from artstore.service import build_app, serve

@asynccontextmanager
async def open_context(runtime):
    yield object()

async def hang(request):
    await asyncio.sleep(3600)

protocol.FIRST_REQUEST_S = server.NOTICED_WITHIN_S = 60  # a busy machine sends a test's request later
settings = load_settings(ServiceSettings)
route = DataRoute("/api/auth/token", ["POST"], hang, {"post": {"responses": {}}})
app = build_app(
    audience=Audience.ADMIN, title="test", settings=settings, open_context=open_context, data_routes=[route]
)
serve(app, settings, "test")
"""


@contextmanager
def service(log: Path, collector_port: int, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(SHARED),
        "PORT": str(port),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector_port}",
        "OTEL_TRACES_SAMPLER_ARG": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        **settings,
    }
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stderr=file)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            deadline = time.monotonic() + TIMEOUT_S
            while True:
                try:
                    client.get("/health/live")
                    break
                except httpx.TransportError:
                    assert time.monotonic() < deadline
                    assert process.poll() is None, log.read_text()
                    time.sleep(0.05)
            yield process, client
    finally:
        process.kill()
        process.wait()


@contextmanager
def collector() -> Iterator[tuple[int, list[int]]]:
    """A port that takes spans, and the sizes of the batches that came."""
    batches: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            batches.append(len(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, batches
    server.shutdown()
    server.server_close()


def stopped(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
    process.send_signal(number)
    return process.wait(TIMEOUT_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_sends_the_spans_that_wait_and_ends_with_status_0(tmp_path: Path, number: signal.Signals) -> None:
    with collector() as (port, batches), service(tmp_path / "log", port) as (process, client):
        deadline = time.monotonic() + TIMEOUT_S
        while not batches:
            client.get("/nowhere")
            assert time.monotonic() < deadline
        before = len(batches)
        client.get("/nowhere")
        assert stopped(process, number) == 0
        assert len(batches) > before


def test_a_connection_accepted_just_before_a_stop_gets_its_answer(tmp_path: Path) -> None:
    with collector() as (port, _), service(tmp_path / "log", port) as (process, client), socket.socket() as fresh:
        address = (client.base_url.host, client.base_url.port)
        fresh.connect(address)
        with socket.create_connection(address) as later:  # accepted after `fresh`
            later.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            assert later.recv(1000).startswith(b"HTTP/1.1 200")
        process.send_signal(signal.SIGTERM)
        while _accepts(address):
            pass
        fresh.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b"".join(iter(lambda: fresh.recv(1000), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer.lower()
        assert process.wait(TIMEOUT_S) == 0


def _accepts(address: tuple[str, int | None]) -> bool:
    try:
        socket.create_connection(address).close()
    except ConnectionRefusedError:
        return False
    except ConnectionResetError:
        pass  # the port was closed before the server took the connection
    return True


def begin_hanging(client: httpx.Client, threads: ThreadPoolExecutor) -> Future[httpx.Response]:
    """A request that has no answer before the service stops."""
    hanging = threads.submit(client.post, "/api/auth/token", content=b"", timeout=TIMEOUT_S)
    deadline = time.monotonic() + TIMEOUT_S
    while "http_requests_in_flight 2.0" not in client.get("/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return hanging


def test_a_request_that_outlasts_the_stop_is_answered_503_with_retry_after(tmp_path: Path) -> None:
    with (
        collector() as (port, _),
        service(tmp_path / "log", port, SHUTDOWN_TIMEOUT_S="1") as (process, client),
        ThreadPoolExecutor() as threads,
    ):
        hanging = begin_hanging(client, threads)
        assert stopped(process) == 0
        answer = hanging.result(TIMEOUT_S)
        assert (answer.status_code, answer.json()["code"], "retry-after" in answer.headers) == (
            503,
            "unavailable",
            True,
        )


def test_a_second_sigterm_changes_nothing_and_an_interrupt_ends_the_wait_for_requests(tmp_path: Path) -> None:
    with (
        collector() as (port, _),
        service(tmp_path / "log", port, SHUTDOWN_TIMEOUT_S="600") as (process, client),
        ThreadPoolExecutor() as threads,
    ):
        hanging = begin_hanging(client, threads)
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + TIMEOUT_S
        while client.get("/health/ready").status_code != 503:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        assert stopped(process, signal.SIGINT) == 0
        assert hanging.result(TIMEOUT_S).status_code == 503


def test_a_collector_that_does_not_respond_neither_holds_up_a_stop_nor_fills_the_log(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        with service(tmp_path / "log", silent.getsockname()[1]) as (process, client):
            for _ in range(20):
                client.get("/nowhere")
            assert stopped(process) == 0
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if "collector" in line or "Transient" in line]
    assert len(lines) <= 2, lines


def test_requests_do_not_wait_for_a_collector_that_accepts_spans_and_never_answers(tmp_path: Path) -> None:
    """More spans than the queue holds: the oldest are dropped, without a line for each."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        silent.settimeout(TIMEOUT_S)
        small = {"OTEL_BSP_MAX_QUEUE_SIZE": "16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4"}
        with service(tmp_path / "log", silent.getsockname()[1], **small) as (process, client):
            client.get("/nowhere")
            exporting, _ = silent.accept()  # from here on the exporter waits
            with exporting:
                for _ in range(100):
                    assert client.get("/nowhere").status_code in (404, 429)
            assert stopped(process) == 0
    log = (tmp_path / "log").read_text()
    assert log.count('"event":"request"') == 101
    assert "Queue full" not in log


def test_an_outage_of_the_collector_is_one_line_in_the_log(tmp_path: Path) -> None:
    """Several exports fail meanwhile; the exporter's library would log each."""
    with service(tmp_path / "log", free_port(), OTEL_EXPORTER_OTLP_TIMEOUT="1") as (process, client):
        deadline = time.monotonic() + TIMEOUT_S
        while "trace collector unavailable" not in (tmp_path / "log").read_text():
            client.get("/nowhere")
            time.sleep(0.1)
            assert time.monotonic() < deadline
        for _ in range(20):
            client.get("/nowhere")
            time.sleep(0.1)
        assert stopped(process) == 0
    log = (tmp_path / "log").read_text()
    assert log.count("trace collector unavailable") == 1
    assert "Transient error" not in log
    assert "Traceback" not in log


def test_a_setting_of_an_earlier_version_is_named_in_the_log(tmp_path: Path) -> None:
    with service(tmp_path / "log", free_port(), STORAGE_RESERVE_PERCENT="2") as (process, _):
        assert stopped(process) == 0
    log = (tmp_path / "log").read_text()
    assert "settings without effect" in log
    assert "STORAGE_RESERVE_PERCENT" in log


def test_a_log_without_a_reader_does_not_delay_a_stop(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(SHARED), "PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stderr=writing)
    os.close(writing)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_S) as client:
            deadline = time.monotonic() + TIMEOUT_S
            while True:
                try:
                    client.get("/health/live")
                    break
                except httpx.TransportError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            for _ in range(1000):  # about 250 KiB of lines; a pipe holds 64
                assert client.get("/nowhere").status_code in (404, 429)
            assert client.get("/health/live").status_code == 200
            assert stopped(process) == 0
    finally:
        process.kill()
        os.close(reading)

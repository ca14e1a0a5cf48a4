"""`./artstore bench` as a user runs it, and its load generators against a server whose answers are known."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artstore_cli.bench.load import NAME, Outcome, Requests, run_own, run_wrk
from artstore_cli.bench.machine import tree
from artstore_cli.bench.report import OURS, THEIRS, Report, Sample
from artstore_cli.process_id import find_started

ROOT = Path(__file__).resolve().parents[2]
COMMAND_TIMEOUT_S = 180


def command(data: Path, *options: str) -> list[str]:
    return [str(ROOT / "artstore"), "bench", "--quick", "--data", str(data), *options]


def without_wrk(folder: Path) -> dict[str, str]:
    """An environment whose PATH holds only what the launcher script needs."""
    folder.mkdir()
    for name in ("sh", "env", "dirname", "readlink", "cmp", "git"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return {**os.environ, "PATH": str(folder)}


def test_the_smallest_bench_prints_the_table_writes_json_and_leaves_nothing(tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "results.json"
    options = (
        "--seconds",
        "1",
        "--big",
        "2",
        "--many",
        "100",
        "--only",
        "PUT 4 KiB c=64|cold|MiB c=1$",
        "--output",
        str(output),
    )
    done = subprocess.run(
        command(data, *options),
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        env=without_wrk(tmp_path / "bin"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(data.iterdir())

    results = json.loads(output.read_text())
    rows = {(row["operation"], row["size"], row["concurrency"]): row for row in results["rows"]}
    assert set(rows) == {
        ("PUT", "4 KiB", 64),
        ("GET each once, cold", "4 KiB", 64),
        ("PUT", "2 MiB", 1),
        ("GET", "2 MiB", 1),
    }
    for key, row in rows.items():
        assert row["ours"]["errors"] == row["theirs"]["errors"] == 0, key
        assert row["ours"]["rate"] > 0, key
        assert row["ratio"] == pytest.approx(row["ours"]["rate"] / row["theirs"]["rate"]), key
        assert row["ours"]["cpu_ms"] is not None, key
    once = rows["GET each once, cold", "4 KiB", 64]
    for side in ("ours", "theirs"):
        assert once[side]["rounds"][0]["outcome"]["requests"] <= 100, "each file is read once"
    assert results["generator"] == "own"
    assert results["versions"]["commit"]
    assert results["memory_mb"]["after"]["ArtStore"]["postgresql"] > 0
    lines = done.stdout.splitlines()
    heading = next(number for number, line in enumerate(lines) if line.startswith("operation"))
    assert len(lines[heading + 1 : heading + 5]) == len(rows)
    assert any("load from" in line and "own generator" in line for line in lines)


def test_an_interrupt_ends_both_systems_and_removes_their_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with subprocess.Popen(command(data), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert any(line.startswith("both are ready") for line in started.stdout)
        processes = tree(started.pid)
        assert len(processes) > 8
        started.send_signal(signal.SIGINT)
        _, errors = started.communicate(timeout=COMMAND_TIMEOUT_S)
    assert started.returncode == 1
    assert errors == "artstore: interrupted\n"
    assert not [pid for pid in processes if find_started(pid) is not None]
    assert not list(data.iterdir())


def test_a_system_that_does_not_start_is_named_with_its_reason(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path / "data", "--json"),
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        env={**os.environ, "LOG_LEVEL": "loud"},
    )
    assert done.returncode == 1
    assert done.stdout == ""
    message = json.loads(done.stderr)["error"]["message"]
    assert message.startswith("ArtStore did not start")
    assert "LOG_LEVEL" in message
    assert not list((tmp_path / "data").iterdir())


class Answers(http.server.BaseHTTPRequestHandler):
    """Refuses every path that ends with `-3`."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = self.path.rpartition("/")[2]
        self._answer(201 if body[:24].decode().strip() == name and not name.endswith("-3") else 500)

    def do_GET(self) -> None:
        self._answer(500 if self.path.endswith("-3") else 200)

    def _answer(self, status: int) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"abc")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.seen = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


Generator = Callable[[Requests, int, float], Outcome]


def generators() -> list[Generator]:
    wrk = shutil.which("wrk")
    return [run_own, *([lambda load, concurrency, seconds: run_wrk(wrk, load, concurrency, seconds)] if wrk else [])]


@pytest.mark.parametrize("generator", generators())
def test_each_upload_has_a_name_and_a_content_of_its_own_and_refusals_are_errors(
    server: http.server.ThreadingHTTPServer, generator: Generator
) -> None:
    load = Requests("PUT", server.server_port, f"/{NAME}", {"X-A": "b"}, body_bytes=64)
    seen = generator(load, 1, 1)
    paths: list[str] = server.seen  # type: ignore[attr-defined]
    assert len(paths) == len(set(paths))
    assert seen.errors == 1, "the third name is refused"
    assert 0 < seen.requests < len(paths)
    assert seen.p50_ms is not None
    assert seen.p99_ms is not None
    assert 0 < seen.p50_ms <= seen.p99_ms


@pytest.mark.parametrize("generator", generators())
def test_listed_paths_are_read_once_and_then_the_load_ends(
    server: http.server.ThreadingHTTPServer, generator: Generator, tmp_path: Path
) -> None:
    listed = [f"/file/{number}" for number in range(1, 40)]
    (tmp_path / "paths").write_text("\n".join(listed))
    seen = generator(Requests("GET", server.server_port, paths=str(tmp_path / "paths")), 2, 60)
    assert set(server.seen) <= set(listed)  # type: ignore[attr-defined]
    assert 37 <= seen.requests <= 39, "the last answers may be lost"
    assert seen.errors == 0
    assert seen.seconds < 60


def test_the_report_names_errors_a_busy_machine_and_a_generator_that_limits() -> None:
    machine = {"cores": 2, "cpu": "cpu", "file_system": "ext4", "load_before": 0.1}
    report = Report(plan={"rounds": 2, "seconds": 8}, machine=machine, versions={"wrk": None})
    for rate, errors, side in ((100, 0, OURS), (300, 2, OURS), (100, 0, THEIRS), (100, 0, THEIRS)):
        outcome = Outcome(rate * 8, errors, 8.0, 1.0, 2.0, 0.95 if side == THEIRS else 0.5)
        report.add(("PUT", "4 KiB", 64), side, Sample(outcome, 4.0, other_cpu=0.5))
    (row,) = report.document()["rows"]
    assert (row["ratio"], row["ours"]["rate"], row["ours"]["errors"]) == (2.0, 200, 2)
    text = "\n".join(report.lines())
    assert "2.00" in text
    assert "busy: compare ratios" in text
    assert "may have been the bottleneck: PUT 4 KiB c=64 (theirs)" in text

"""A process whose standard error takes no lines works, stops and counts as if nothing had happened. Real processes and pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest

from artstore.logs import MAX_LINE_CHARACTERS, _Context, _dumps, _Render

SHARED = Path(__file__).resolve().parents[1]
TIMEOUT_S = 60
"""No promise: it only ends a test that would hang."""
PROGRAM = """
import logging, os, sys, warnings
from artstore.logs import configure_logs, get_logger, lines_dropped
told = os.fdopen(int(sys.argv[1]), "w")
configure_logs("test", "INFO", sys.argv[2])
log = get_logger("test")
for number in range(int(sys.argv[3])):
    log.info("line", number=number)
logging.getLogger("library").warning("of a library")
warnings.warn("a warning")
print("printed", file=sys.stderr)
told.write(f"done {lines_dropped()}\\n")
told.flush()
if len(sys.argv) > 4:
    os.read(int(sys.argv[4]), 1)
    log.info("after")
"""


def run(
    stderr: int | IO[bytes], *, lines: int, log_format: str = "json", close_stderr: bool = False
) -> tuple[int, list[str]]:
    """Its exit status, and its report on a pipe of its own."""
    reading, writing = os.pipe()
    arguments: list[Any] = [sys.executable, "-c", PROGRAM, str(writing), log_format, str(lines)]
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        pass_fds=[writing],
        env={**os.environ, "PYTHONPATH": str(SHARED)},
        preexec_fn=(lambda: os.close(2)) if close_stderr else None,
    )
    os.close(writing)
    with os.fdopen(reading) as told:
        said = told.read().split()
    return process.wait(TIMEOUT_S), said


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_full_disk_below_the_log_costs_lines_only(log_format: str) -> None:
    with open("/dev/full", "wb") as full:
        status, said = run(full, lines=30_000, log_format=log_format)
    assert status == 0
    assert said[0] == "done"
    assert int(said[1]) >= 10_000


def test_a_pipe_without_a_reader_costs_lines_only() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as broken:
        status, said = run(broken, lines=30_000)
    assert status == 0
    assert said[0] == "done"


def test_a_pipe_that_is_never_read_neither_stops_the_process_nor_its_exit() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as full:
        status, said = run(full, lines=30_000)
    os.close(reading)
    assert status == 0
    assert int(said[1]) > 0


def test_a_process_without_standard_error_runs() -> None:
    assert run(subprocess.DEVNULL, lines=10, close_stderr=True) == (0, ["done", "0"])


def test_every_line_is_written_whole_where_the_log_is_sound(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        status, _ = run(log, lines=5000)
    assert status == 0
    lines = (tmp_path / "log").read_text().splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    assert [event["number"] for event in events if event["event"] == "line"] == list(range(5000))
    assert any("of a library" in event["event"] for event in events)
    assert any("a warning" in event["event"] for event in events)
    assert "printed" in lines


def test_dropped_lines_are_reported_once_when_the_log_is_back() -> None:
    reading, writing = os.pipe()
    told_reading, told_writing = os.pipe()
    go_reading, go_writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(told_writing), "json", "30000", str(go_reading)],
        stdout=subprocess.DEVNULL,
        stderr=writing,
        pass_fds=[told_writing, go_reading],
        env={**os.environ, "PYTHONPATH": str(SHARED)},
    )
    for descriptor in (writing, told_writing, go_reading):
        os.close(descriptor)
    with os.fdopen(told_reading) as told, os.fdopen(reading, "rb") as log:
        dropped = int(told.readline().split()[1])
        assert dropped > 0
        content = b""
        while b"log lines dropped" not in content:  # the reader is back
            content += os.read(log.fileno(), 1 << 16)
        os.write(go_writing, b"g")
        content += log.read()
    os.close(go_writing)
    assert process.wait(TIMEOUT_S) == 0
    events = [json.loads(line) for line in content.splitlines() if line.startswith(b"{")]
    assert [event["lines"] for event in events if event["event"] == "log lines dropped"] == [dropped]
    assert events[-1]["event"] == "after"


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "value",
    ["\ud800", 1 << 70, Unprintable(), "x" * 200_000, {"a": {1: "\udc80"}}, b"\xff", float("nan")],
    ids=["surrogate", "large integer", "unprintable", "long", "nested", "bytes", "nan"],
)
def test_whatever_is_logged_yields_a_line_and_no_exception(value: object) -> None:
    render = _Render([_Context("test"), lambda _logger, _method, event: _dumps(event)])
    line = render(None, "info", {"event": "it", "value": value})
    assert json.loads(line)["event"] == "it"
    assert len(line) <= MAX_LINE_CHARACTERS

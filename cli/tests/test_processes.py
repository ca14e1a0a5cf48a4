"""Process ids are never confused with later processes, and children end with their launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from artstore_cli.process_id import ProcessId, find_started
from artstore_cli.processes import Command, describe_end, identify, spawn, tail

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


def command(tmp_path: Path, arguments: list[str]) -> Command:
    return Command(arguments, dict(os.environ), tmp_path, tmp_path / "part.log")


def test_a_pid_that_another_process_has_now_counts_as_gone(tmp_path: Path) -> None:
    process = spawn(command(tmp_path, SLEEP))
    right = identify(process)
    wrong = ProcessId(right.pid, right.started + 1)
    assert right.alive()
    assert not wrong.alive()
    wrong.send(signal.SIGKILL)
    assert process.poll() is None
    right.send(signal.SIGKILL)
    assert process.wait(120) == -signal.SIGKILL
    assert not right.alive()


def test_a_zombie_counts_as_gone(tmp_path: Path) -> None:
    process = spawn(command(tmp_path, [sys.executable, "-c", "pass"]))
    identity = ProcessId(process.pid, find_started(process.pid) or -1)
    assert identity.wait_gone(10)
    assert process.wait() == 0


def test_a_child_ends_when_its_launcher_is_killed(tmp_path: Path) -> None:
    launcher = f"""
import os, sys, time
from pathlib import Path
from artstore_cli.processes import Command, spawn
here = Path({str(tmp_path)!r})
child = spawn(Command({SLEEP!r}, dict(os.environ), here, here / "child.log"))
print(child.pid, flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    child = ProcessId(pid, find_started(pid) or -1)
    assert child.alive()
    process.kill()
    process.wait()
    process.stdout.close()
    assert child.wait_gone(10)


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    log.write_text("".join(f"line {number}\n" for number in range(50_000)))
    assert tail(log, 2) == ["line 49998", "line 49999"]
    assert tail(tmp_path / "none.log") == []


@pytest.mark.parametrize(
    ("status", "words"), [(0, "ended with status 0"), (2, "ended with status 2"), (-9, "was killed by SIGKILL")]
)
def test_an_exit_status_is_described_in_words(status: int, words: str) -> None:
    assert describe_end(status) == words


def test_the_output_of_a_process_goes_to_its_log(tmp_path: Path) -> None:
    process = spawn(command(tmp_path, SLEEP))
    deadline = time.monotonic() + 10
    while not (log := tmp_path / "part.log").read_text().endswith("\n") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert log.read_text() == "up\n"

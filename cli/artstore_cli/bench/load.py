"""Puts load on one side: many small requests through wrk or our own generator, or one large body."""

from __future__ import annotations

import http.client
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO, cast

from artstore.local.ports import LOOPBACK

from ..errors import CommandError

NAME = "{name}"
"""In a path: replaced by another name for each request."""
PIECE_BYTES = 1 << 20
TRANSFER_TIMEOUT_S = 600
GRACE_S = 60
"""A generator that runs this much longer than it should is ended."""
BOTTLENECK_CPU = 0.9
"""A generator with this share of a core may be what limits the rate."""


@dataclass(frozen=True, slots=True)
class Requests:
    """The small requests of one row to one side, each answered before the next on its connection."""

    method: str
    port: int
    path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body_bytes: int = 0
    """More than 0: each request sends a body, whose first 24 bytes are its name."""
    paths: str | None = None
    """A file with one path a line: each is requested once, and the load ends with the last."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One large body, sent from `file` or received."""

    method: str
    port: int
    path: str
    headers: Mapping[str, str]
    size_bytes: int
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one run of load. A transfer has no percentiles."""

    requests: int
    """Answered as expected."""
    errors: int
    seconds: float
    p50_ms: float | None
    p99_ms: float | None
    generator_cpu: float
    """Share of a core that the load generator used."""
    transferred_bytes: int = 0

    @property
    def rate(self) -> float:
        """Requests per second, or MB/s of a transfer."""
        return (self.requests if self.p50_ms is not None else self.transferred_bytes / 1e6) / self.seconds


def run(load: Requests | Transfer, concurrency: int, seconds: float) -> Outcome:
    """Raises CommandError when the generator itself fails."""
    if isinstance(load, Transfer):
        return transfer(load)
    wrk = shutil.which("wrk")
    return run_wrk(wrk, load, concurrency, seconds) if wrk else run_own(load, concurrency, seconds)


def run_wrk(wrk: str, load: Requests, concurrency: int, seconds: float) -> Outcome:
    before, _, after = load.path.partition(NAME)
    arguments = [
        *(wrk, "-t1", f"-c{concurrency}", f"-d{max(1, round(seconds))}s", "--timeout", "20s"),
        *("-s", str(Path(__file__).with_name("load.lua"))),
        *(part for name, value in load.headers.items() for part in ("-H", f"{name}: {value}")),
        *(f"http://{LOOPBACK}:{load.port}", "--"),
        *(load.method, before, after, str(load.body_bytes), load.paths or "-"),
    ]
    lines, cpu_s, _ = _run_child(arguments, seconds, interrupt_at="exhausted")
    result = next((line.split()[1:] for line in lines if line.startswith("result ")), None)
    if result is None:
        raise CommandError(f"wrk failed: {lines[-1] if lines else 'no output'}")
    requests, took_us, p50_us, p99_us, refused, broken = map(int, result)
    took_s = took_us / 1e6
    return Outcome(requests - refused, refused + broken, took_s, p50_us / 1e3, p99_us / 1e3, cpu_s / took_s)


def run_own(load: Requests, concurrency: int, seconds: float) -> Outcome:
    """In a process of its own, so that its CPU time is known and the bench itself takes none."""
    arguments = [sys.executable, "-m", "artstore_cli.bench.generator"]
    wanted = {**asdict(load), "concurrency": concurrency, "seconds": seconds}
    lines, _, status = _run_child(arguments, seconds, text=json.dumps(wanted))
    if status != 0 or not lines:
        raise CommandError(f"the load generator failed: {lines[-1] if lines else 'no output'}")
    return Outcome(**json.loads(lines[-1]))


def _run_child(
    arguments: Sequence[str], seconds: float, *, text: str = "", interrupt_at: str | None = None
) -> tuple[list[str], float, int]:
    """Output, CPU time and exit status of a generator. At the line `interrupt_at` it receives SIGINT and then ends."""
    used_before_s = _children_cpu_s()
    lines: list[str] = []
    with subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    ) as child:
        watchdog = threading.Timer(seconds + GRACE_S, child.kill)
        watchdog.start()
        try:
            with cast(TextIO, child.stdin) as orders:
                orders.write(text)
            for line in cast(TextIO, child.stdout):
                lines.append(line.rstrip("\n"))
                if lines[-1] == interrupt_at:
                    child.send_signal(signal.SIGINT)
        except BaseException:
            child.kill()
            raise
        finally:
            watchdog.cancel()
    return [line for line in lines if line], _children_cpu_s() - used_before_s, child.returncode


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def transfer(load: Transfer) -> Outcome:
    """The kernel sends the file itself; a received body is counted and thrown away."""
    connection = http.client.HTTPConnection(LOOPBACK, load.port, timeout=TRANSFER_TIMEOUT_S)
    began_s, cpu_s = time.perf_counter(), time.process_time()
    moved_bytes = 0
    try:
        connection.putrequest(load.method, load.path)
        for name, value in load.headers.items():
            connection.putheader(name, value)
        if load.file is not None:
            connection.putheader("Content-Length", str(load.size_bytes))
        connection.endheaders()
        if load.file is not None:
            with load.file.open("rb") as file:
                moved_bytes = connection.sock.sendfile(file)
        answer = connection.getresponse()
        piece, received_bytes = memoryview(bytearray(PIECE_BYTES)), 0
        while number := answer.readinto(piece):
            received_bytes += number
        ok = answer.status in (200, 201) and max(moved_bytes, received_bytes) == load.size_bytes
    except (OSError, http.client.HTTPException):
        ok = False
    finally:
        connection.close()
    took_s = time.perf_counter() - began_s
    cpu = (time.process_time() - cpu_s) / took_s
    return Outcome(int(ok), int(not ok), took_s, None, None, cpu, load.size_bytes if ok else 0)

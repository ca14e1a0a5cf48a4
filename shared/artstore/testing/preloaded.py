"""Starts services for tests without the 1.5 s that their imports take: asks a process that has imported them to
fork them, because the tests' own process has threads.

Each runs the module's own `main` in a process of its own, with the given environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, NoReturn

from artstore.local.forking import fork, preload

SHARED = Path(__file__).parents[2]
MESSAGE_BYTES = 1 << 18
KILLED = -int(signal.SIGKILL)


class Forked:
    """The subset of subprocess.Popen that tests use, for a forked service."""

    def __init__(self, watcher: socket.socket) -> None:
        self._watcher = watcher
        self.returncode: int | None = None
        self.pid = int(watcher.recv(16))

    def poll(self) -> int | None:
        return self._returned(0)

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        returned = self._returned(timeout)
        if returned is None:
            raise subprocess.TimeoutExpired("app.main", timeout or 0)
        return returned

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _returned(self, timeout_s: float | None) -> int | None:
        if self.returncode is None:
            self._watcher.settimeout(timeout_s)
            with contextlib.suppress(TimeoutError, BlockingIOError):
                self.returncode = int(self._watcher.recv(16) or KILLED)
                self._watcher.close()
        return self.returncode


def start(module: Path, environment: Mapping[str, str], stdout: IO[bytes], stderr: IO[bytes]) -> Forked:
    """Starts the service of a module, the folder that contains the package `app`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        message = json.dumps(dict(environment)).encode()
        socket.send_fds(_loaded(module), [message], [theirs.fileno(), stdout.fileno(), stderr.fileno()])
    return Forked(ours)


def run(module: Path, environment: Mapping[str, str], timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Runs a service that is expected to end by itself. On subprocess.TimeoutExpired it is killed."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = start(module, environment, stdout, stderr)
        try:
            status = process.wait(timeout_s)
        finally:
            process.kill()
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess("app.main", status, stdout.read().decode(), stderr.read().decode())


@cache
def _loaded(module: Path) -> socket.socket:
    """The control socket of the module's preloaded process, which ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            cwd=module,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(module), str(SHARED)))},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
    return ours


def main() -> None:
    orders = socket.socket(fileno=int(sys.argv[1]))
    preload([Path.cwd()])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, files, _, _ = socket.recv_fds(orders, MESSAGE_BYTES, 3)
        if not message:
            return
        if os.fork() == 0:
            orders.close()
            _watch(json.loads(message), *files)
        for file in files:
            os.close(file)


def _watch(environment: dict[str, str], watcher: int, stdout: int, stderr: int) -> NoReturn:
    """Forks the service, sends its pid, and sends its exit status when it has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = fork(Path.cwd(), environment, stdout, stderr)
    for file in (1, 2, stdout, stderr):
        os.close(file)
    os.write(watcher, str(pid).encode())
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):  # the starter has stopped waiting
        os.write(watcher, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


if __name__ == "__main__":
    main()

"""Child processes that end with their launcher, and process ids that are never confused with a later process."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from artstore.local.fork_server import ForkServer
from artstore.local.forking import PR_SET_PDEATHSIG
from artstore.local.postgres import Account

from .process_id import POLL_S, ProcessId, find_started

TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run. `stop_signal` asks it to shut down; the kernel also sends it when the launcher dies."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    stop_signal: signal.Signals = signal.SIGTERM
    account: Account | None = None


@dataclass(frozen=True, slots=True)
class ForkCommand:
    """A service to fork from a process that has imported its module."""

    server: ForkServer
    module: Path
    environment: Mapping[str, str]
    log: Path
    stop_signal: signal.Signals = signal.SIGTERM


class Forked:
    """The subset of subprocess.Popen that the launcher uses, for a service that is not started from a program."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(POLL_S)
        return status


Process = subprocess.Popen[bytes] | Forked


def spawn(command: Command) -> subprocess.Popen[bytes]:
    """Start the program in its own session, so that Ctrl-C reaches only the launcher. Call from the main thread only,
    because the kernel ties the death signal to the thread that forked."""
    launcher = os.getpid()
    libc = ctypes.CDLL(None)
    account = command.account

    def end_with_launcher() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(command.stop_signal))
        if os.getppid() != launcher:
            os._exit(1)

    with _open_log(command.log) as log:
        return subprocess.Popen(
            command.arguments,
            env=dict(command.environment),
            cwd=command.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=end_with_launcher,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )


def fork_service(command: ForkCommand) -> Forked:
    """Start the service in its own session, as `spawn` does."""
    with _open_log(command.log) as log:
        return Forked(command.server.fork(command.module, command.environment, log.fileno()))


def _open_log(path: Path) -> BinaryIO:
    """Falls back to /dev/null, because a full disk may not take even an empty file and the service should still run."""
    try:
        return path.open("ab")
    except OSError:
        return open(os.devnull, "ab")


def identify(process: Process) -> ProcessId:
    """The id of a child. If it has already ended, its start time is -1, which matches no process."""
    return ProcessId(process.pid, find_started(process.pid) or -1)


def tail(log: Path, lines: int = 15) -> list[str]:
    """The last lines of a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


def describe_end(status: int) -> str:
    """Describe Popen.returncode in words."""
    if status >= 0:
        return f"ended with status {status}"
    return f"was killed by {signal.Signals(-status).name}"

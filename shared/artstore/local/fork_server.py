"""A child process that imports the services, forks them on request, and ends. Its parent keeps none of their memory.

A service changes the reference counts of the objects that it uses, and so copies their pages. If the process that has imported
them stayed, it would keep the original of each page that all services have copied: about 25 MB. The services become children
of the process that asks for them, which is a subreaper (PR_SET_CHILD_SUBREAPER(2const)). Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from .forking import PR_SET_PDEATHSIG, fork, preload

PR_SET_CHILD_SUBREAPER = 36
IDLE_S = 30.0
"""The server ends after this time without a request: all services of a start are forked by one server, also when some wait
in vain for others."""
ANSWER_TIMEOUT_S = 60.0
"""For one fork. The first one waits for the imports."""
MESSAGE_BYTES = 1 << 18


class ForkServer:
    """Forks services of these modules, each the folder of a package `app`. A server that has ended is started again, which takes
    as long as the imports."""

    def __init__(self, modules: Sequence[Path]) -> None:
        self._modules = modules
        self._socket: socket.socket | None = None
        self._pid = 0

    def start(self) -> socket.socket:
        """Returns at once; the imports take about a second. Call from the main thread only, because the kernel ties the death
        signal to the thread that forked."""
        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
        launcher = os.getpid()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(ANSWER_TIMEOUT_S)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # our handlers must not run there
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _run(self._modules, theirs, launcher)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
        self._socket = ours
        return ours

    def fork(self, module: Path, environment: Mapping[str, str], output: int) -> int:
        """Returns the pid of the service, a child of this process. `output` is an open file. Raises OSError."""
        message = json.dumps([str(module), dict(environment)]).encode()
        for _ in range(2):  # the first server may have ended because nothing was asked of it
            if pid := self._ask(message, output):
                return pid
            self.stop()
        raise ChildProcessError("the services cannot be imported")

    def stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, message: bytes, output: int) -> int:
        """0 when the server has ended."""
        requests = self._socket or self.start()
        try:
            socket.send_fds(requests, [message], [output])
            return int(requests.recv(16) or 0)
        except (BrokenPipeError, ConnectionResetError):
            return 0
        except TimeoutError:
            # It must not fork later: its answer would be taken for that to the next request.
            os.kill(self._pid, signal.SIGKILL)
            self.stop()
            raise


def reap_orphans(children: Mapping[int, object]) -> None:
    """Collects ended processes that a subreaper has adopted, all but its known children, by pid."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid not in children:
            os.waitpid(ended.si_pid, 0)


def _run(modules: Sequence[Path], requests: socket.socket, launcher: int) -> NoReturn:
    """Ends also with its launcher."""
    status = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != launcher:
            os._exit(1)
        os.setsid()  # Ctrl-C is for the launcher
        _close_all_but(requests.fileno())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        preload(modules)
        _leave_terminal()
        requests.settimeout(IDLE_S)
        with contextlib.suppress(TimeoutError):
            while True:
                message, files, _, _ = socket.recv_fds(requests, MESSAGE_BYTES, 1)
                if not message:
                    break
                module, environment = json.loads(message)
                requests.send(str(_fork_orphan(Path(module), environment, files[0], launcher)).encode())
                os.close(files[0])
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)


def _fork_orphan(module: Path, environment: Mapping[str, str], output: int, launcher: int) -> int:
    """A process between this one and the service ends at once, and the launcher adopts the service."""
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        try:
            pid = fork(module, environment, output, output, adopted_by=launcher)
            os.write(writing, str(pid).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(between, 0)
    with open(reading, "rb") as pipe:
        return int(pipe.read())


def _leave_terminal() -> None:
    """Until here it shows why an import fails. A reader of the launcher's output need not wait for the end of this process."""
    for target in (0, 1, 2):
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, target)
        os.close(nothing)


def _close_all_but(kept: int) -> None:
    """The launcher's files, above all its lock on the data folder."""
    os.closerange(3, kept)
    os.closerange(kept + 1, max(map(int, os.listdir("/proc/self/fd"))) + 1)

"""`up --detach`: runs `up` in a new session; the command returns when the system is ready."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

READY, PARTLY = b"r", b"p"
PARTLY_CODE = 4
"""Exit code of `up --detach` when the system runs but a part is not ready."""

Run = Callable[[Callable[[bool], None]], int]


def detached(run: Run, log: Path) -> int:
    """Run `run` in the background. Returns when it calls its argument: 0, or PARTLY_CODE if it passes false.

    A run that ends earlier gives its own exit code. Until then its output appears here, and interrupts are passed on to it.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setsid()
        os._exit(_in_background(run, writing, log))
    os.close(writing)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: os.kill(child, signal.SIGTERM))
    started = os.read(reading, 1)
    if started:
        return 0 if started == READY else PARTLY_CODE
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or 1


def _in_background(run: Run, writing: int, log: Path) -> int:
    def is_started(ready: bool) -> None:
        with contextlib.suppress(OSError):
            _redirect(log)
        os.write(writing, READY if ready else PARTLY)
        os.close(writing)

    code = run(is_started)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    return code


def _redirect(log: Path) -> None:
    """Send all further output to the log."""
    sys.stdout.flush()
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(nothing)
    os.close(target)

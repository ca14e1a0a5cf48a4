"""Starts services as forks of a process that has imported them, which shares the memory of their libraries and
saves the 1.5 s of each import.

The modules all name their package `app`. `preload` keeps the package of each under a name of its own, and a fork takes its own. A
fork is a copy of one thread, so the process that forks has no others. Linux only.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NoReturn

PACKAGE = "app"
MAIN = "app.main"
PR_SET_PDEATHSIG = 1
ARGUMENTS_FIELD = 45
"""Index of arg_start, field 48 of proc_pid_stat(5), in the fields after the command's name."""

_preloaded: dict[Path, dict[str, ModuleType]] = {}


def preload(modules: Sequence[Path]) -> None:
    """Imports the services of these modules with their libraries."""
    for module in modules:
        sys.path.insert(0, str(module))
        try:
            import_module(MAIN)
        finally:
            sys.path.remove(str(module))
            _preloaded[module] = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_own(name)}
    _import_what_starts_import()
    gc.collect()
    gc.freeze()


def _import_what_starts_import() -> None:
    """Modules that the libraries import only when an application is built or run."""
    from fastapi import FastAPI  # only here, because commands that start nothing do not need it

    def endpoint(number: int) -> None:
        pass

    FastAPI().get("/{number}")(endpoint)
    for name in ("encodings.idna", "uvicorn.lifespan.on", "uvicorn.loops.uvloop"):
        import_module(name)


def fork(module: Path, name: str, environment: Mapping[str, str], stdout: int, stderr: int) -> int:
    """Returns the pid of the service, a child in a session of its own, which gets SIGTERM when this process dies.
    `module` is the folder of a preloaded `app`; `stdout` and `stderr` are open files; `ps` shows the name."""
    if len(os.listdir("/proc/self/task")) != 1:
        raise RuntimeError("cannot fork a service: this process has more than one thread")
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # our handlers must not run in the fork
    try:
        pid = os.fork()
        if pid == 0:
            _become(module, name, environment, parent, stdout, stderr)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _become(module: Path, name: str, environment: Mapping[str, str], parent: int, stdout: int, stderr: int) -> NoReturn:
    """Runs the service and exits as the interpreter does, but without unwinding the parent's stack."""
    status = 1
    try:
        _leave_parent(parent, stdout, stderr)
        _set_title(f"artstore: {name}")
        os.chdir(module)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [str(module / "app" / "main.py")]
        sys.path.insert(0, str(module))
        sys.modules.update(_preloaded[module])
        import_module(MAIN).main()
        status = 0
    except SystemExit as end:
        status = _exit_status(end)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are not daemons
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _leave_parent(parent: int, stdout: int, stderr: int) -> None:
    """Drops what belongs to the parent: its session, files, exit functions and signal handlers."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:
        os._exit(1)
    os.setsid()
    for target, source in enumerate((os.open(os.devnull, os.O_RDONLY), stdout, stderr)):
        os.dup2(source, target)
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    atexit._clear()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _exit_status(end: SystemExit) -> int:
    """As the interpreter derives it: a text is printed and means 1."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    sys.stderr.write(f"{end.code}\n")
    return 1


def _set_title(title: str) -> None:
    """Replaces the command line that `ps` shows. If its last byte is not NUL, the kernel reads up to the first NUL."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = (int(field) for field in fields[ARGUMENTS_FIELD : ARGUMENTS_FIELD + 2])
    size = end - start
    if size > 2:
        text = title.encode()[: size - 2]
        ctypes.memmove(start, text.ljust(size - 1, b"\0") + b" ", size)


def _is_own(name: str) -> bool:
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")

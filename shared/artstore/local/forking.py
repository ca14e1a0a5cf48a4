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
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NoReturn

PACKAGE = "app"
MAIN = "app.main"
ADOPTION_POLL_S = 0.001
PR_SET_PDEATHSIG = 1
PR_SET_MM = 35
PR_SET_MM_MAP = 14

_preloaded: dict[Path, dict[str, ModuleType]] = {}
_shown: ctypes.Array[ctypes.c_char] | None = None
"""The bytes that the kernel shows as this process's command line and environment."""


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


def fork(
    module: Path, environment: Mapping[str, str], stdout: int, stderr: int, *, adopted_by: int | None = None
) -> int:
    """Returns the pid of the service, a child in a session of its own, which gets SIGTERM when its parent dies.
    `module` is the folder of a preloaded `app`; `stdout` and `stderr` are open files. `adopted_by`: the process that becomes
    the parent when this one ends, as it has to at once; the service waits for that."""
    if len(os.listdir("/proc/self/task")) != 1:
        raise RuntimeError("cannot fork a service: this process has more than one thread")
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # our handlers must not run in the fork
    try:
        pid = os.fork()
        if pid == 0:
            _become(module, environment, parent, adopted_by or parent, stdout, stderr)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _become(
    module: Path, environment: Mapping[str, str], forked_by: int, parent: int, stdout: int, stderr: int
) -> NoReturn:
    """Runs the service and exits as the interpreter does, but without unwinding the parent's stack."""
    status = 1
    try:
        while parent != forked_by == os.getppid():
            time.sleep(ADOPTION_POLL_S)
        _leave_parent(parent, stdout, stderr)
        _show_as([sys.executable, "-m", MAIN], environment)
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


def _show_as(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Makes `ps` and /proc show the command and the environment that start this service alone: operators look there.
    A kernel that does not allow it (CONFIG_CHECKPOINT_RESTORE) continues to show the parent's."""
    global _shown
    command = b"".join(os.fsencode(text) + b"\0" for text in arguments)
    variables = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in environment.items())
    _shown = ctypes.create_string_buffer(command + variables)
    start = ctypes.addressof(_shown)
    libc = ctypes.CDLL(None)
    libc.sbrk.restype = ctypes.c_void_p
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()

    def field(number: int) -> int:
        """By its number in proc_pid_stat(5). The state, number 3, follows the name."""
        return int(fields[number - 3])

    areas = _MemoryMap(
        *(field(number) for number in (26, 27, 45, 46, 47)),  # code, data, start of the heap
        libc.sbrk(0),
        field(28),  # start of the stack
        start,
        start + len(command),
        start + len(command),
        start + len(command) + len(variables),
        exe_descriptor=2**32 - 1,  # stays
    )
    libc.prctl(PR_SET_MM, PR_SET_MM_MAP, ctypes.byref(areas), ctypes.c_ulong(ctypes.sizeof(areas)), ctypes.c_ulong(0))


class _MemoryMap(ctypes.Structure):
    """struct prctl_mm_map of PR_SET_MM(2const)."""

    _fields_ = [
        *(
            (name, ctypes.c_uint64)
            for name in (
                *("start_code", "end_code", "start_data", "end_data", "start_brk", "brk", "start_stack"),
                *("arg_start", "arg_end", "env_start", "env_end", "auxv"),
            )
        ),
        ("auxv_size", ctypes.c_uint32),
        ("exe_descriptor", ctypes.c_uint32),
    ]


def _is_own(name: str) -> bool:
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")

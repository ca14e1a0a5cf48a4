"""The Nth system call of the durable layer fails. `durable` is the only module that syncs, renames and unlinks, so its `os`
and libc are replaced by counting ones, as SQLite's tests do. Runs in worker processes.
"""

from __future__ import annotations

import asyncio
import ctypes
import enum
import errno
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.store import durable
from app.store.store import Store
from artstore.errors import ArtStoreError

from ..store.support import opened
from .invariants import check_invariants
from .journal import Journal, KeptCatalog, allowed_states
from .kills import SEGMENT_BYTES, scratch
from .work import SCENARIOS, Work, catalog_of, journal_of

COUNTED = frozenset(
    {"open", "writev", "pwritev", "fdatasync", "fsync", "rename", "unlink", "mkdir", "syncfs", "link", "ftruncate"}
)
WRITES = frozenset({"writev", "pwritev"})
CASE_TIMEOUT_S = 120
LIBC = ctypes.CDLL(None, use_errno=True)


class Fault(enum.StrEnum):
    EIO = "EIO"
    ENOSPC = "ENOSPC"
    SHORT = "short"
    """The write takes half of the bytes and says so."""
    TORN = "torn"
    """The write takes half of the bytes; the next one gives ENOSPC."""
    FULL = "full"
    """From here on nothing new finds room. Calls that overwrite or remove still work."""


@dataclass(frozen=True, slots=True)
class Case:
    scenario: str
    nth: int
    fault: Fault


class Calls:
    """Stands for `os` and for libc in app.store.durable. `struck` names the call that went wrong."""

    def __init__(self, nth: int = 0, fault: Fault = Fault.EIO) -> None:
        self.names: list[str] = []
        self.struck: str | None = None
        self._nth, self._fault = nth, fault
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        real = getattr(os if hasattr(os, name) else LIBC, name)
        if name not in COUNTED:
            return real
        return lambda *arguments: self._call(name, real, arguments)

    def syncfs(self, fd: int) -> int:
        try:
            self._call("syncfs", os.fsync, (fd,))
        except OSError as error:
            ctypes.set_errno(error.errno or 0)
            return -1
        return 0

    def _call(self, name: str, real: Any, arguments: tuple[Any, ...]) -> Any:
        with self._lock:
            self.names.append(name)
            number = len(self.names)
        if self._fault is Fault.FULL:
            self._refuse_growth(name, number, arguments)
        elif number == self._nth:
            self.struck = name
            if self._fault in (Fault.SHORT, Fault.TORN) and name in WRITES:
                return real(arguments[0], *half_of(arguments[1]), *arguments[2:])
            if self._fault is not Fault.SHORT:
                raise OSError(getattr(errno, self._fault, errno.ENOSPC), f"injected at {name}")
        elif number == self._nth + 1 and self._fault is Fault.TORN and name in WRITES:
            raise OSError(errno.ENOSPC, f"injected at {name}")
        return real(*arguments)

    def _refuse_growth(self, name: str, number: int, arguments: tuple[Any, ...]) -> None:
        grows = name in ("writev", "mkdir") or (name == "open" and arguments[1] & os.O_CREAT)
        if number >= self._nth and grows:
            self.struck = name
            raise OSError(errno.ENOSPC, f"injected at {name}")


def half_of(pieces: list[memoryview]) -> tuple[list[bytes]]:
    whole = b"".join(pieces)
    return ([whole[: max(1, len(whole) // 2)]],)


def calls_of(scenario: str) -> list[str]:
    """Every counted call of an undisturbed run, start and end included."""
    with scratch() as folder:
        return _run(folder / "root", scenario, Calls())


def run_case(case: Case) -> str | None:
    """The name of the call that went wrong."""
    with scratch() as folder:
        root = folder / "root"
        calls = Calls(case.nth, case.fault)
        _run(root, case.scenario, calls)
        _run(root, None, Calls())
        return calls.struck


def _run(root: Path, scenario: str | None, calls: Calls) -> list[str]:
    real = {name: vars(durable)[name] for name in ("os", "_libc")}
    vars(durable).update(dict.fromkeys(real, calls))
    try:
        asyncio.run(asyncio.wait_for(_session(root, scenario), CASE_TIMEOUT_S))
    finally:
        vars(durable).update(real)
    return calls.names


async def _session(root: Path, scenario: str | None) -> None:
    catalog, journal = KeptCatalog(catalog_of(root)), Journal(journal_of(root))
    started = False
    try:
        async with opened(root, catalog, segment_bytes=SEGMENT_BYTES) as store:
            started = True
            if scenario is not None:
                await SCENARIOS[scenario](Work(store, journal, catalog))
            if store.disk_health.failure is None:
                _check(root, store, catalog)
    except (OSError, ArtStoreError):
        # A start may fail, with an error that says why; a session that began must not.
        if started or scenario is None:
            raise
    finally:
        catalog.close()
        journal.close()


def _check(root: Path, store: Store, catalog: KeptCatalog) -> None:
    """An element that goes on after a failed call is right at once, not only after a restart."""
    check_invariants(
        root,
        allowed=allowed_states(journal_of(root)),
        catalog=catalog.revisions(),
        open_intents=len(store.wal.open) + len(store.unsettled),
    )

"""Starts the parts of a system in the order of their needs, watches them, and stops them in the reverse order.

One thread, no locks: the kernel's death signal of a child is tied to the thread that started it.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .data_folder import DataFolder, Record
from .parts import Part, unready_checks
from .processes import POLL_S, Command, ProcessId, describe_end, identify, spawn, tail

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
"""After it a part that was asked to stop is killed; PostgreSQL repairs itself at the next start."""
MAX_DEATHS = 3
DEATHS_WITHIN_S = 60
"""A part that dies this often in this time will not live by being started once more."""


class Interrupted(Exception):
    """SIGINT, SIGTERM or SIGHUP came."""


class Died(Exception):
    """A part ended by itself and the system cannot go on."""

    def __init__(self, name: str, how: str, last_lines: Sequence[str]) -> None:
        super().__init__(f"{name} {how}")
        self.name = name
        self.last_lines = last_lines


class Slow(Exception):
    """Some parts did not become ready in time."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"not ready after {START_TIMEOUT_S} s: {', '.join(names)}")


class Reporter(Protocol):
    """Who is told what happens; `up` shows it."""

    def waiting(self, names: Sequence[str]) -> None: ...

    def ready(self, name: str, after_s: float) -> None: ...

    def restarting(self, death: Died) -> None: ...

    def stopping(self, names: Sequence[str]) -> None: ...


@dataclass(slots=True)
class Running:
    part: Part
    command: Command
    process: subprocess.Popen[bytes]
    id: ProcessId
    started_s: float
    ready: bool = False
    start_again_s: float | None = None
    """Set once it has died: when it is to be started again."""


@dataclass(slots=True)
class System:
    """The parts that run on one data folder."""

    folder: DataFolder
    record: Record
    reporter: Reporter
    running: dict[str, Running] = field(default_factory=dict)
    deaths: defaultdict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))
    """By part: when it died of late."""

    def start(self, parts: Sequence[Part]) -> None:
        """Returns when all are ready. Raises Died, Interrupted or Slow."""
        deadline = time.monotonic() + START_TIMEOUT_S
        waiting = list(parts)
        while waiting or not all(one.ready for one in self.running.values()):
            for part in [part for part in waiting if all(self._is_ready(need) for need in part.needs)]:
                waiting.remove(part)
                self._start(part)
            self._require_alive()
            self._ask_ready()
            self.reporter.waiting([*self._unready(), *(part.name for part in waiting)])
            if time.monotonic() > deadline:
                raise Slow([self._why_unready(self.running[name].part) for name in self._unready()])
            time.sleep(POLL_S)

    def watch(self) -> None:
        """Keeps the system running until it is interrupted; a part that dies is reported and started again."""
        while True:
            time.sleep(POLL_S * 4)
            for one in list(self.running.values()):
                if one.process.poll() is None:
                    continue
                if one.start_again_s is None:
                    one.start_again_s = time.monotonic() + self._pause_after_death(one)
                elif one.start_again_s <= time.monotonic():
                    self._start(one.part)

    def stop(self) -> None:
        """Stops all, those first that others do not need. Nothing is left running when it returns."""
        for wave in stop_order([one.part for one in self.running.values()]):
            ids = [(self.running[name].id, self.running[name].command.stop_signal) for name in wave]
            self.reporter.stopping(wave)
            stop_processes(ids, waiting_for=[self.running[name].process for name in wave])
            for name in wave:
                del self.running[name]
        self.folder.record.unlink(missing_ok=True)

    def _is_ready(self, name: str) -> bool:
        return name in self.running and self.running[name].ready

    def _unready(self) -> list[str]:
        return [name for name, one in self.running.items() if not one.ready]

    def _why_unready(self, part: Part) -> str:
        return part.name if part.port is None else f"{part.name} ({', '.join(unready_checks(part.port))})"

    def _start(self, part: Part) -> None:
        command = part.command()
        process = spawn(command)
        self.running[part.name] = Running(part, command, process, identify(process), time.monotonic())
        self.record.processes[part.name] = self.running[part.name].id
        self.record.save(self.folder)

    def _require_alive(self) -> None:
        for one in self.running.values():
            if one.process.poll() is not None:
                raise _death(one)

    def _ask_ready(self) -> None:
        for name, one in self.running.items():
            if not one.ready and one.part.is_ready(one.process.pid):
                one.ready = True
                self.reporter.ready(name, time.monotonic() - one.started_s)

    def _pause_after_death(self, one: Running) -> float:
        """Seconds until it is started again, longer each time. Raises Died when it has died too often."""
        now = time.monotonic()
        deaths = self.deaths[one.part.name]
        deaths.append(now)
        while deaths[0] < now - DEATHS_WITHIN_S:
            deaths.popleft()
        death = _death(one)
        if len(deaths) >= MAX_DEATHS:
            raise death
        self.reporter.restarting(death)
        return float(2 ** len(deaths) / 2)


def _death(one: Running) -> Died:
    return Died(one.part.name, describe_end(one.process.returncode), tail(one.command.log))


def stop_order(parts: Sequence[Part]) -> Iterator[list[str]]:
    """Waves of names: each holds what no part of a later wave needs any more."""
    left = {part.name: set(part.needs) for part in parts}
    while left:
        needed = set().union(*left.values())
        wave = [name for name in left if name not in needed] or list(left)
        yield wave
        for name in wave:
            del left[name]


def stop_processes(
    processes: Sequence[tuple[ProcessId, signal.Signals]], waiting_for: Sequence[subprocess.Popen[bytes]] = ()
) -> None:
    """Asks each to end by its signal, and kills those that have not after STOP_TIMEOUT_S."""
    for identity, number in processes:
        identity.send(number)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for identity, _ in processes:
        if not identity.wait_gone(max(0.0, deadline - time.monotonic())):
            identity.send(signal.SIGKILL)
            identity.wait_gone(STOP_TIMEOUT_S)
    for process in waiting_for:
        process.wait(STOP_TIMEOUT_S)

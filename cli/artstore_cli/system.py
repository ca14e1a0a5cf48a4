"""Starts the parts of a system in dependency order, keeps them running, and stops them in the reverse order.

A part that cannot start or dies is restarted with growing pauses, for ever, while the others keep running. There is only one
thread, because the kernel ties the death signal of a child to the thread that started it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from artstore.local.fork_server import reap_orphans

from .data_folder import DataFolder, Record
from .log_rotation import rotate
from .parts import Part, describe
from .process_id import POLL_S, ProcessId
from .processes import (
    Command,
    ForkCommand,
    Process,
    describe_end,
    fork_service,
    identify,
    spawn,
    tail,
)

START_TIMEOUT_S = 60
"""How long a start waits for parts without progress. A recovery whose count advances makes progress."""
NEED_TIMEOUT_S = 15
"""After this time a part starts without its dependencies, because every service can start without its neighbours."""
STOP_TIMEOUT_S = 60
"""After this time a part that was asked to stop is killed. Longer than the time for running requests (SHUTDOWN_TIMEOUT_S,
10 s) plus a checkpoint on a slow disk."""
MAX_DEATHS = 3
"""A start does not wait for a part that has died this often, and stops printing its last lines."""
MAX_PAUSE_S = 60.0
STEADY_S = 60.0
"""After running this long a part has its deaths forgotten."""
CHECK_EVERY_S = 1.0
"""How often unready parts are checked and logs rotated after the start."""
CONFIGURATION_STATUS = 2
"""Exit status of a service that refuses its settings, so that a restart would not help."""


class Interrupted(Exception):
    """SIGINT, SIGTERM or SIGHUP was received."""


class Misconfigured(Exception):
    """A part refused its settings at its first start. The text is its message."""


@dataclass(frozen=True, slots=True)
class Death:
    """How a part ended on its own, or why it could not be started."""

    name: str
    how: str
    last_lines: Sequence[str]
    times: int
    pause_s: float

    def __str__(self) -> str:
        return f"{self.name} {self.how}"


class Reporter(Protocol):
    """Receives the messages for the user; `up` prints them."""

    def waiting(self, parts: Sequence[str]) -> None: ...

    def ready(self, name: str, after_s: float) -> None: ...

    def restarting(self, death: Death) -> None: ...

    def stopping(self, names: Sequence[str]) -> None: ...

    def warning(self, text: str) -> None: ...


@dataclass(slots=True)
class RunningPart:
    part: Part
    command: Command | ForkCommand | None = None
    process: Process | None = None
    id: ProcessId | None = None
    started_s: float = 0.0
    ready: bool = False
    was_ready: bool = False
    unready: dict[str, str] = field(default_factory=dict)
    """The failing readiness checks of its last answer."""
    deaths: int = 0
    start_again_s: float | None = None
    """When it is to be started again. Set after it has died."""

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def fault(self) -> str:
        return describe(self.unready) if self.unready else "starting"


@dataclass(slots=True)
class System:
    """The parts that run on one data folder."""

    folder: DataFolder
    record: Record
    reporter: Reporter
    running: dict[str, RunningPart] = field(default_factory=dict)
    """The parts started so far, in the order of their first start."""
    _waiting: list[Part] = field(default_factory=list)
    _began_s: float = 0.0
    _progress_s: float = 0.0
    _checked_s: float = 0.0
    _record_failed: bool = False

    def start(self, parts: Sequence[Part]) -> list[str]:
        """Returns when all parts are ready, or when the others make no progress. Returns those with their reasons.
        Raises Interrupted and Misconfigured."""
        self._waiting = list(parts)
        self._began_s = self._progress_s = time.monotonic()
        while True:
            self._start_waiting()
            self._restart_dead()
            self._check_unready()
            unready = {name: one for name, one in self.running.items() if not one.ready}
            if not unready and not self._waiting:
                return []
            self.reporter.waiting(
                [*(f"{name} ({one.fault})" for name, one in unready.items()), *(part.name for part in self._waiting)]
            )
            stuck = all(one.deaths >= MAX_DEATHS for one in unready.values()) and not self._waiting
            if stuck or time.monotonic() > self._progress_s + START_TIMEOUT_S:
                return [f"{name} ({one.fault})" for name, one in unready.items()]
            time.sleep(POLL_S)

    def watch(self) -> None:
        """Keeps the system running until it is interrupted."""
        while True:
            time.sleep(POLL_S * 4)
            self._restart_dead()
            if time.monotonic() >= self._checked_s + CHECK_EVERY_S:
                self._checked_s = time.monotonic()
                self._check_unready()
                reap_orphans({one.process.pid: one for one in self.running.values() if one.process is not None})
                for name in ("artstore", *self.running):
                    rotate(self.folder.log(name))

    def stop(self) -> None:
        """Stop all parts, dependants first. Nothing is left running on return."""
        for wave in stop_order([one.part for one in self.running.values()]):
            alive = [self.running[name] for name in wave if self.running[name].alive]
            ids = [(one.id, one.command.stop_signal) for one in alive if one.id is not None and one.command is not None]
            self.reporter.stopping(wave)
            stop_processes(ids, waiting_for=[one.process for one in alive if one.process is not None])
            for name in wave:
                del self.running[name]
        self.folder.record.unlink(missing_ok=True)

    def _start_waiting(self) -> None:
        late = time.monotonic() > self._began_s + NEED_TIMEOUT_S
        for part in list(self._waiting):
            if late or all(self._is_settled(need) for need in part.needs):
                self._waiting.remove(part)
                self.running[part.name] = RunningPart(part)
                self._start(self.running[part.name])

    def _is_settled(self, name: str) -> bool:
        """True if dependants need not wait for this part: it is ready or has died."""
        one = self.running.get(name)
        return one is not None and (one.ready or one.deaths > 0)

    def _start(self, one: RunningPart) -> None:
        one.start_again_s, one.started_s, one.ready, one.unready = None, time.monotonic(), False, {}
        if one.deaths == 0:  # a part that dies again and again makes no progress
            self._progress_s = time.monotonic()
        try:
            one.command = one.part.command()
            one.process = fork_service(one.command) if isinstance(one.command, ForkCommand) else spawn(one.command)
        except OSError as error:
            one.process = None
            self._note_death(one, f"cannot be started: {error}", [])
            return
        one.id = identify(one.process)
        self.record.processes[one.part.name] = one.id
        self._save()

    def _restart_dead(self) -> None:
        for one in self.running.values():
            if one.alive:
                continue
            if one.start_again_s is None and one.process is not None and one.command is not None:
                status = one.process.wait(0)
                lines = tail(one.command.log)
                if status == CONFIGURATION_STATUS and not one.was_ready:
                    raise Misconfigured(lines[-1] if lines else f"{one.part.name} refuses its settings")
                self._note_death(one, describe_end(status), lines)
            elif one.start_again_s is not None and one.start_again_s <= time.monotonic():
                self._start(one)

    def _note_death(self, one: RunningPart, how: str, last_lines: Sequence[str]) -> None:
        now_s = time.monotonic()
        one.deaths = 1 if one.was_ready and now_s - one.started_s > STEADY_S else one.deaths + 1
        pause_s = min(MAX_PAUSE_S, 2.0 ** (one.deaths - 1))
        one.ready, one.start_again_s = False, now_s + pause_s
        last = f": {last_lines[-1][:200]}" if last_lines else ""
        one.unready = {"": f"{how}{last}"}
        death = Death(one.part.name, how, last_lines if one.deaths <= MAX_DEATHS else [], one.deaths, pause_s)
        self.reporter.restarting(death)
        self.record.faults[one.part.name] = f"{how}, {one.deaths} times in a row{last}"
        self._save()

    def _check_unready(self) -> None:
        for name, one in self.running.items():
            if one.ready or not one.alive or one.process is None:
                continue
            before = one.unready.get("recovery")
            one.unready = one.part.find_unready(one.process.pid)
            if one.unready:
                if one.unready.get("recovery") != before:
                    self._progress_s = time.monotonic()
                continue
            one.ready = one.was_ready = True
            self._progress_s = time.monotonic()
            self.reporter.ready(name, time.monotonic() - one.started_s)
            if self.record.faults.pop(name, None) is not None:
                self._save()

    def _save(self) -> None:
        """A failure to write the record does not stop the parts."""
        try:
            self.record.save(self.folder)
            self._record_failed = False
        except OSError as error:
            if not self._record_failed:
                self.reporter.warning(
                    f"{self.folder.record} cannot be written ({error.strerror}): status may be out of date"
                )
            self._record_failed = True


def stop_order(parts: Sequence[Part]) -> Iterator[list[str]]:
    """Waves of names: the parts of a wave are not needed by any later wave."""
    left = {part.name: set(part.needs) for part in parts}
    while left:
        needed = set().union(*left.values())
        wave = [name for name in left if name not in needed] or list(left)
        yield wave
        for name in wave:
            del left[name]


def stop_processes(processes: Sequence[tuple[ProcessId, signal.Signals]], waiting_for: Sequence[Process] = ()) -> None:
    """Send each process its signal, and kill those that have not ended after STOP_TIMEOUT_S."""
    for identity, number in processes:
        identity.send(number)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for identity, _ in processes:
        if not identity.wait_gone(max(0.0, deadline - time.monotonic())):
            identity.send(signal.SIGKILL)
            identity.wait_gone(STOP_TIMEOUT_S)
    for process in waiting_for:
        process.wait(STOP_TIMEOUT_S)

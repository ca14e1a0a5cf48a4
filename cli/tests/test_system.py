"""Start and stop order of the parts, and restarts after a death. Uses small real processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from artstore_cli.data_folder import DataFolder, Record, find_record
from artstore_cli.errors import CommandError
from artstore_cli.parts import Part
from artstore_cli.process_id import ProcessId, find_started
from artstore_cli.processes import Command
from artstore_cli.running import stop_leftovers
from artstore_cli.system import MAX_DEATHS, Death, Interrupted, Misconfigured, System, stop_order

STAYS = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + STAYS
DIES = "import sys; sys.exit('no such luck')"


class Told:
    """A reporter that records its calls."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.deaths: list[Death] = []

    def waiting(self, parts: Sequence[str]) -> None:
        pass

    def warning(self, text: str) -> None:
        self.events.append(f"warning {text}")

    def ready(self, name: str, after_s: float) -> None:
        self.events.append(f"ready {name}")

    def restarting(self, death: Death) -> None:
        self.events.append(f"died {death.name}")
        self.deaths.append(death)

    def stopping(self, names: Sequence[str]) -> None:
        self.events.append(f"stop {'+'.join(sorted(names))}")


def part(folder: DataFolder, name: str, program: str = STAYS, needs: Sequence[str] = ()) -> Part:
    log = folder.log(name)

    def command() -> Command:
        return Command([sys.executable, "-c", program], dict(os.environ), folder.path, log)

    return Part(name, command, lambda _: {} if "up" in log.read_text() else {"": "not up yet"}, needs)


@pytest.fixture
def system(folder: DataFolder) -> System:
    own = ProcessId(os.getpid(), find_started(os.getpid()) or -1)
    return System(folder, Record(8000, own), Told())


def told(system: System) -> list[str]:
    assert isinstance(system.reporter, Told)
    return system.reporter.events


def test_parts_start_after_what_they_need_and_stop_before_it(system: System) -> None:
    folder = system.folder
    system.start(
        [part(folder, "top", needs=("left", "right")), part(folder, "right", needs=("base",)),
         part(folder, "left", needs=("base",)), part(folder, "base")]
    )  # fmt: skip
    ids = [one.id for one in system.running.values() if one.id is not None]
    record = find_record(folder)
    assert record is not None
    assert list(record.processes.values()) == ids
    system.stop()
    events = told(system)
    assert events[0] == "ready base"
    assert sorted(events[1:3]) == ["ready left", "ready right"]
    assert events[3:] == ["ready top", "stop top", "stop left+right", "stop base"]
    assert not any(identity.alive() for identity in ids)
    assert find_record(folder) is None


def watch_until(system: System, true: Callable[[], bool]) -> None:
    """Watch the system until `true` holds; then interrupt it as a signal would."""
    sleep = time.sleep

    def interrupt(seconds: float) -> None:
        if true():
            raise Interrupted
        sleep(seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("artstore_cli.system.time.sleep", interrupt)
        with pytest.raises(Interrupted):
            system.watch()


def test_a_part_that_cannot_start_is_named_and_the_others_run(system: System) -> None:
    folder = system.folder
    unready = system.start(
        [part(folder, "good"), part(folder, "bad", DIES), part(folder, "needy", needs=("bad",))]
    )  # fmt: skip
    assert unready == ["bad (ended with status 1: no such luck)"]
    assert system.running["good"].ready
    assert system.running["needy"].ready
    reporter = system.reporter
    assert isinstance(reporter, Told)
    assert reporter.deaths[0].last_lines == ["no such luck"]
    record = find_record(folder)
    assert record is not None
    assert record.faults == {"bad": f"ended with status 1, {MAX_DEATHS} times in a row: no such luck"}
    system.stop()
    assert not system.running


def test_a_missing_program_stops_no_other_part(system: System) -> None:
    folder = system.folder
    nowhere = Part(
        "nowhere", lambda: Command(["/no/such/program"], {}, folder.path, folder.log("nowhere")), lambda _: {}
    )
    (unready,) = system.start([nowhere, part(folder, "good")])
    assert unready.startswith("nowhere (cannot be started: ")
    assert system.running["good"].ready
    system.stop()


def test_a_part_is_tried_again_until_it_can_run(system: System, tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    program = f"import os, sys; os.path.exists({str(mended)!r}) or sys.exit(1); {STAYS}"
    assert system.start([part(system.folder, "late", program), part(system.folder, "good")])
    mended.touch()
    watch_until(system, lambda: system.running["late"].ready)
    assert "ready late" in told(system)
    record = find_record(system.folder)
    assert record is not None
    assert record.faults == {}
    system.stop()


def test_settings_that_a_part_refuses_end_the_first_start_with_its_message(system: System) -> None:
    refuses = "import sys; print('artstore: cannot start: LOG_LEVEL is wrong', file=sys.stderr); sys.exit(2)"
    with pytest.raises(Misconfigured, match="LOG_LEVEL is wrong"):
        system.start([part(system.folder, "good"), part(system.folder, "wrong", refuses)])
    system.stop()


def test_a_start_waits_for_a_recovery_as_long_as_it_makes_progress(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recovery takes far longer than a start waits for a part without progress."""
    monkeypatch.setattr("artstore_cli.system.START_TIMEOUT_S", 0.5)
    steps = iter(range(1, 101))

    def recovering(_pid: int) -> dict[str, str]:
        step = next(steps, None)
        return {} if step is None else {"recovery": f"replaying the log {step}/100"}

    slow = Part("slow", part(system.folder, "slow").command, recovering)
    assert system.start([slow]) == []
    system.stop()


def test_a_start_does_not_wait_for_a_recovery_without_progress(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artstore_cli.system.START_TIMEOUT_S", 0.5)
    stuck = Part("stuck", part(system.folder, "stuck").command, lambda _: {"recovery": "replaying the log 3/100"})
    assert system.start([stuck]) == ["stuck (recovery: replaying the log 3/100)"]
    assert system.running["stuck"].alive
    system.stop()


def test_a_part_that_dies_again_and_again_ends_no_other_part(system: System) -> None:
    system.start([part(system.folder, "other"), part(system.folder, "mortal")])
    killed: set[int] = set()

    def kill_and_count() -> bool:
        identity = system.running["mortal"].id
        if identity is not None and identity.pid not in killed and identity.alive():
            identity.send(signal.SIGKILL)
            killed.add(identity.pid)
        return len(killed) > MAX_DEATHS

    watch_until(system, kill_and_count)
    assert system.running["other"].alive
    system.stop()


def test_a_record_that_cannot_be_written_stops_nothing(system: System) -> None:
    system.folder.record.mkdir()
    assert system.start([part(system.folder, "one"), part(system.folder, "two")]) == []
    assert len([event for event in told(system) if event.startswith("warning")]) == 1
    system.folder.record.rmdir()
    system.stop()


def test_a_part_that_ignores_the_request_to_stop_is_killed(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artstore_cli.system.STOP_TIMEOUT_S", 0.5)
    system.start([part(system.folder, "stubborn", STUBBORN)])
    identity = system.running["stubborn"].id
    assert identity is not None
    system.stop()
    assert not identity.alive()


def test_processes_of_a_killed_launcher_are_ended_and_no_others(system: System) -> None:
    system.start([part(system.folder, "left"), part(system.folder, "stranger")])
    left, stranger = system.running["left"].id, system.running["stranger"].id
    assert left is not None
    assert stranger is not None
    system.record.processes["stranger"] = ProcessId(stranger.pid, stranger.started - 1)
    system.record.save(system.folder)
    assert stop_leftovers(system.folder) == ["left"]
    assert not left.alive()
    assert stranger.alive()
    system.stop()


def test_two_launchers_never_share_a_folder(folder: DataFolder) -> None:
    with folder.locked():
        assert folder.is_locked()
        with pytest.raises(CommandError, match="already runs"), folder.locked():
            raise AssertionError("both have it")
    assert not folder.is_locked()


@pytest.mark.parametrize(
    ("needs", "waves"),
    [
        ({}, []),
        ({"a": [], "b": []}, [["a", "b"]]),
        ({"a": [], "b": ["a"], "c": ["b"]}, [["c"], ["b"], ["a"]]),
        ({"a": [], "b": ["a"], "c": ["a", "b"]}, [["c"], ["b"], ["a"]]),
        ({"b": ["a"]}, [["b"]]),
        ({"a": ["b"], "b": ["a"]}, [["a", "b"]]),
    ],
)
def test_dependencies_stop_last(needs: dict[str, list[str]], waves: list[list[str]], folder: DataFolder) -> None:
    parts = [part(folder, name, needs=wanted) for name, wanted in needs.items()]
    assert list(stop_order(parts)) == waves

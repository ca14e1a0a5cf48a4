"""The order in which parts start and stop, and what happens when one dies. Real processes, small ones."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

import pytest

from artstore_cli import leftovers
from artstore_cli.data_folder import DataFolder, Record, find_record
from artstore_cli.parts import Part
from artstore_cli.processes import Command, ProcessId, find_started
from artstore_cli.refusal import Refused
from artstore_cli.system import MAX_DEATHS, Died, System, stop_order

STAYS = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + STAYS
DIES = "import sys; sys.exit('no such luck')"


class Told:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def waiting(self, names: Sequence[str]) -> None:
        pass

    def ready(self, name: str, after_s: float) -> None:
        self.events.append(f"ready {name}")

    def restarting(self, death: Died) -> None:
        self.events.append(f"died {death.name}")

    def stopping(self, names: Sequence[str]) -> None:
        self.events.append(f"stop {'+'.join(sorted(names))}")


def part(folder: DataFolder, name: str, program: str = STAYS, needs: Sequence[str] = ()) -> Part:
    log = folder.log(name)

    def command() -> Command:
        return Command([sys.executable, "-c", program], dict(os.environ), folder.path, log)

    return Part(name, command, lambda _: log.exists() and "up" in log.read_text(), needs)


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
    ids = [one.id for one in system.running.values()]
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


def test_a_part_that_dies_while_starting_is_named_with_its_last_words(system: System) -> None:
    with pytest.raises(Died, match="bad ended with status 1") as death:
        system.start([part(system.folder, "good"), part(system.folder, "bad", DIES)])
    assert death.value.last_lines == ["no such luck"]
    system.stop()
    assert not system.running


def test_a_part_that_dies_later_is_reported_and_started_again_but_not_for_ever(system: System) -> None:
    system.start([part(system.folder, "other"), part(system.folder, "mortal")])
    killed: list[int] = []

    def kill_whatever_runs() -> None:
        while len(killed) < MAX_DEATHS:
            current = system.running["mortal"].id
            if current.pid not in killed and current.alive():
                current.send(signal.SIGKILL)
                killed.append(current.pid)
            time.sleep(0.02)

    killer = threading.Thread(target=kill_whatever_runs)
    killer.start()
    with pytest.raises(Died, match="mortal was killed by SIGKILL"):
        system.watch()
    killer.join()
    assert system.running["other"].id.alive()
    system.stop()
    assert [event for event in told(system) if event.startswith("died")] == ["died mortal"] * (MAX_DEATHS - 1)


def test_a_part_that_ignores_the_request_to_stop_is_killed(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artstore_cli.system.STOP_TIMEOUT_S", 0.5)
    system.start([part(system.folder, "stubborn", STUBBORN)])
    identity = system.running["stubborn"].id
    system.stop()
    assert not identity.alive()


def test_what_a_killed_launcher_left_is_ended_and_nothing_else(system: System) -> None:
    system.start([part(system.folder, "left"), part(system.folder, "stranger")])
    left, stranger = system.running["left"].id, system.running["stranger"].id
    system.record.processes["stranger"] = ProcessId(stranger.pid, stranger.started - 1)
    system.record.save(system.folder)
    assert leftovers.clear(system.folder) == ["left"]
    assert not left.alive()
    assert stranger.alive()
    system.stop()


def test_two_launchers_never_share_a_folder(folder: DataFolder) -> None:
    with folder.locked():
        assert folder.is_locked()
        with pytest.raises(Refused, match="already runs"), folder.locked():
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
def test_what_is_needed_stops_last(needs: dict[str, list[str]], waves: list[list[str]], folder: DataFolder) -> None:
    parts = [part(folder, name, needs=wanted) for name, wanted in needs.items()]
    assert list(stop_order(parts)) == waves

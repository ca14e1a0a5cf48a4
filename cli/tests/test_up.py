"""`./artstore` from outside, as a user runs it: the whole system with real processes, and what is left when it ends."""

from __future__ import annotations

import json
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from artstore.local.ports import is_free
from artstore_cli.data_folder import DataFolder, find_record
from artstore_cli.process_id import ProcessId

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"postgres", "valkey", "admin", "se-01", "se-02", "se-03", "ingester", "query", "gateway"}
OFFSETS = (0, 10, 11, 12, 20, 30, 80)
COMMAND_TIMEOUT_S = 120
SETTLE_S = 120


@dataclass(frozen=True)
class Place:
    """Data folder and ports of a test's system."""

    folder: DataFolder
    base: int

    def artstore(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(command, *options), capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
        )

    def command(self, command: str, *options: str) -> list[str]:
        base = ["--port-base", str(self.base)] if command == "up" else []
        return [str(ROOT / "artstore"), command, "--data", str(self.folder.path), *base, *options]

    def processes(self) -> dict[str, ProcessId]:
        record = find_record(self.folder)
        return record.processes if record else {}


def free_base() -> int:
    while True:
        base = 12_000 + secrets.randbelow(1_500) * 10
        if all(is_free(base + offset) for offset in OFFSETS):
            return base


def until_gone(processes: Sequence[ProcessId]) -> bool:
    deadline = time.monotonic() + SETTLE_S
    while any(process.alive() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(process.alive() for process in processes)


def ready(started: subprocess.Popen[str]) -> bool:
    """Read the output of a foreground `up` until it reports that it is ready."""
    assert started.stdout is not None
    return any(line.startswith("ArtStore is ready") for line in started.stdout)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(DataFolder(tmp_path / "data"), free_base())


@pytest.fixture(scope="module")
def detached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, str]]:
    """A system that runs during the tests of this file, and the output of its start."""
    place = Place(DataFolder(tmp_path_factory.mktemp("detached") / "data"), free_base())
    started = place.artstore("up", "--detach")
    assert started.returncode == 0, started.stdout + started.stderr
    yield place, started.stdout
    processes = list(place.processes().values())
    stopped = place.artstore("down")
    assert stopped.returncode == 0, stopped.stderr
    assert set(stopped.stdout.removeprefix("stopped ").strip().split(", ")) == NAMES
    assert not any(process.alive() for process in processes)
    assert all(is_free(place.base + offset) for offset in OFFSETS)
    assert place.artstore("down").stdout == "nothing was running\n"
    assert place.artstore("status").returncode == 3


def test_a_detached_system_is_ready_when_the_command_returns(detached: tuple[Place, str]) -> None:
    place, _ = detached
    shown = place.artstore("status")
    assert shown.returncode == 0, shown.stdout
    assert set(shown.stdout.split()) >= NAMES
    assert set(place.processes()) == NAMES
    assert json.loads((place.folder.keys / "admin-client.json").read_text()).keys() == {"client_id", "client_secret"}


def test_the_lines_to_paste_store_a_file_and_get_it_back(detached: tuple[Place, str]) -> None:
    _, printed = detached
    lines = [line for line in printed.splitlines() if "--data" in line]
    assert len(lines) == 2
    pasted = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)
    assert pasted.stdout == "identical\n", pasted.stderr


def test_a_second_start_on_the_same_folder_is_refused_and_the_first_goes_on(detached: tuple[Place, str]) -> None:
    place, _ = detached
    before = place.processes()
    second = Place(place.folder, free_base()).artstore("up")
    assert second.returncode != 0
    assert "already runs" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert place.processes() == before
    assert place.artstore("status").returncode == 0


def test_a_service_that_dies_is_named_with_its_last_lines_and_comes_back(detached: tuple[Place, str]) -> None:
    place, _ = detached
    place.processes()["se-02"].send(signal.SIGKILL)
    deadline = time.monotonic() + SETTLE_S
    while place.artstore("status").returncode != 0 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert place.artstore("status").returncode == 0
    log = place.folder.log("artstore").read_text()
    assert "se-02 was killed by SIGKILL" in log
    assert '"service":"se-02"' in log or "se-02" in log.split("killed by SIGKILL")[1]


def test_an_interrupt_stops_everything_beside_another_system(detached: tuple[Place, str], place: Place) -> None:
    command = place.command("up", "--json")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as started:
        assert started.stdout is not None
        told = json.loads(started.stdout.readline())
        assert (told["address"], told["ready"], told["not_ready"]) == (f"http://127.0.0.1:{place.base + 80}", True, [])
        assert Path(told["credentials"]).exists()
        processes = list(place.processes().values())
        assert len(processes) == len(NAMES)
        started.send_signal(signal.SIGINT)
        rest, _ = started.communicate(timeout=COMMAND_TIMEOUT_S)
    assert (started.returncode, rest) == (0, "")
    assert not any(process.alive() for process in processes)
    assert detached[0].artstore("status").returncode == 0


def test_a_killed_launcher_leaves_no_process_and_the_next_start_works(place: Place) -> None:
    for _ in range(2):
        with subprocess.Popen(
            place.command("up"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as started:
            assert ready(started)
            processes = list(place.processes().values())
            started.kill()
        assert until_gone(processes)
    assert place.artstore("down").returncode == 0


def test_an_interrupt_in_the_middle_of_the_start_leaves_nothing(place: Place) -> None:
    with subprocess.Popen(place.command("up"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as started:
        while "admin" not in place.processes():
            assert started.poll() is None
            time.sleep(0.02)
        processes = list(place.processes().values())
        started.send_signal(signal.SIGINT)
        started.communicate(timeout=COMMAND_TIMEOUT_S)
    assert started.returncode != 0
    assert not any(process.alive() for process in processes)


def test_a_taken_port_is_refused_in_one_line_before_anything_runs(place: Place) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", place.base + 20))
        other.listen()
        refused = place.artstore("up", "--detach")
    assert refused.returncode != 0
    assert refused.stderr == (
        f"artstore: port {place.base + 20} for ingester is taken by another program; choose another --port-base\n"
    )
    assert not place.processes()


def test_an_unusable_data_folder_is_refused_in_one_line(place: Place) -> None:
    place.folder.path.write_text("a file")
    refused = place.artstore("up")
    assert refused.returncode != 0
    assert str(place.folder.path) in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    error = json.loads(place.artstore("up", "--json").stderr)["error"]
    assert str(place.folder.path) in error["message"]
    assert (error["code"], error["exit_code"]) == ("failed", 1)
    wrong = place.artstore("up", "--scale", "se-01=2", "--json")
    assert "--scale se-01=2" in json.loads(wrong.stderr)["error"]["message"]


def test_a_restore_that_was_cut_off_before_its_end_is_not_taken_for_a_new_system(place: Place) -> None:
    (place.folder.path / ".restoring" / "postgres").mkdir(parents=True)
    refused = place.artstore("up")
    assert refused.returncode != 0
    assert "a restore of the database was interrupted" in refused.stderr
    assert not place.folder.postgres.exists()


def test_a_database_whose_keys_are_gone_is_refused_in_one_line(place: Place) -> None:
    (place.folder.postgres).mkdir(parents=True)
    (place.folder.postgres / "PG_VERSION").write_text("18\n")
    refused = place.artstore("up")
    assert refused.returncode != 0
    assert "postgres-password is missing" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (place.folder.keys / "postgres-password").exists()

"""Login and profiles, exit codes, output for people and programs."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from support.system import ROOT, System

from artstore_cli.commands.files import change_tags
from artstore_cli.output import UNSAFE, fit, printable, size_text, to_json
from artstore_cli.values import parse_duration, parse_size

from .conftest import SOURCES, TIMEOUT_S, Artstore

NO_ID = "00000000-0000-4000-8000-000000000000"


def test_login_keeps_checked_credentials_for_their_owner_alone(stranger: Artstore, system: System) -> None:
    given = system.credentials()
    kept = Path(stranger.environment["XDG_CONFIG_HOME"]) / "artstore" / "profiles.json"
    login = ("login", system.address, "--client-id", given["client_id"])
    wrong = stranger.run(*login, given="wrong", code=5)
    assert "unauthenticated" not in wrong.stdout
    assert not kept.exists()
    assert stranger.error("ls", code=3)["code"] == "not_logged_in"
    admin = stranger.run("login", system.url("admin"), *login[2:], given=given["client_secret"], code=3)
    assert "not the gateway" in admin.stderr
    stranger.run(*login, given=given["client_secret"])
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    stranger.run("ls", "--limit", "1")
    assert stranger.error("ls", "--profile", "none", code=5)["code"] == "not_logged_in"
    # the environment wins, and is complete or refused
    elsewhere = {"ARTSTORE_URL": "http://127.0.0.1:1", "ARTSTORE_CLIENT_ID": "x", "ARTSTORE_CLIENT_SECRET": "y"}
    assert stranger.with_environment(**elsewhere).error("ls", code=3)["code"] == "connection_failed"
    assert "ARTSTORE_CLIENT_ID" in stranger.with_environment(ARTSTORE_URL=system.address).error("ls", code=2)["message"]
    kept.chmod(0o644)
    assert "chmod 600" in stranger.error("ls", code=5)["hint"]
    kept.chmod(0o600)
    stranger.run("logout")
    stranger.run("logout", code=6)


def test_a_local_system_needs_no_login(stranger: Artstore, system: System) -> None:
    assert system.data is not None
    stranger.run("ls", "--data", str(system.data), "--limit", "1")
    (stranger.folder / ".artstore").symlink_to(system.data)
    stranger.run("ls", "--limit", "1")
    (stranger.folder / "empty").mkdir()
    assert stranger.error("ls", "--data", "empty", code=3)["code"] == "not_running"


def test_errors_have_codes_for_programs(artstore: Artstore, system: System) -> None:
    (artstore.folder / "x.txt").write_text("x")
    (one,) = artstore.items("put", "x.txt")
    file_id = one["file"]["file_id"]
    missing = artstore.error("info", NO_ID, code=6)
    assert (missing["code"], missing["status"]) == ("not_found", 404)
    assert missing["request_id"]
    kept = artstore.error("rm", file_id, "--yes", code=7)
    assert (kept["code"], kept["path"]) == ("mode_forbids", file_id)
    assert "--temporary" in kept["hint"]
    artstore.run("rm", file_id, NO_ID, "--yes", code=1)
    assert artstore.error("rm", file_id, code=2)["hint"] == "add --yes"
    assert artstore.error("ls", "--limit", "x", code=2)["code"] == "usage"
    assert artstore.error("ls", "--sort", "x", code=1)["status"] == 422
    assert artstore.error("ls", "--min-size", "x", code=2)["code"] == "usage"
    assert artstore.error("mode", "se-02", "ar", "--yes", code=7)["status"] == 409
    assert artstore.error("accept-root", "se-02", code=2)["hint"] == "add --yes"
    assert artstore.error("accept-root", "se-02", "--yes", code=7)["status"] == 409
    assert artstore.error("rebuild", "se-02", "--force", code=2)["hint"] == "add --yes"
    assert artstore.error("rebuild", "se-99", code=6)["status"] == 404
    assert artstore.error("accounts", "suspend", "nobody", code=6)["code"] == "not_found"
    reader = system.new_account("READONLY")
    asks = artstore.with_environment(
        ARTSTORE_CLIENT_ID=reader["client_id"], ARTSTORE_CLIENT_SECRET=reader["client_secret"]
    )
    assert asks.error("put", "x.txt", code=5)["code"] == "forbidden"


def test_an_argument_that_is_not_unicode_is_refused_with_a_remedy(artstore: Artstore) -> None:
    error = artstore.error("ls", "--tag", "\udcff", code=2)
    assert (error["code"], "C.UTF-8" in error["hint"]) == ("usage", True)


def test_tags_are_added_and_removed(artstore: Artstore) -> None:
    (artstore.folder / "x.txt").write_text("x")
    (one,) = artstore.items("put", "x.txt", "--temporary", "--tag", "old", "--tag", "kept")
    (record,) = artstore.items("tag", one["file"]["file_id"], "+новый", "-old", "-absent", "+kept")
    assert record["tags"] == ["kept", "новый"]
    assert artstore.items("info", record["file_id"]) == [record]
    artstore.run("tag", record["file_id"], "neither", code=2)
    assert change_tags(("a", "b"), ["-a", "+c", "+b", "+a"]) == ["b", "c", "a"]


def test_a_list_says_that_it_is_not_all(artstore: Artstore, mark: str) -> None:
    folder = artstore.folder / "many"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text("x")
    artstore.run("put", "many", "--tag", mark)
    some = artstore.run("ls", "--tag", mark, "--limit", "2", "--sort", "filename")
    assert [line.split("\t")[3] for line in some.stdout.splitlines()] == ["0.txt", "1.txt"]
    assert "--limit 0" in some.stderr
    for limit in ("3", "0"):
        everything = artstore.run("ls", "--tag", mark, "--limit", limit)
        assert (len(everything.stdout.splitlines()), everything.stderr) == (3, "")


def test_a_closed_pipe_is_quiet(artstore: Artstore) -> None:
    read, write = os.pipe()
    os.close(read)
    with artstore.in_new_interpreter().start("audit", "list", stdout=write) as listing:
        os.close(write)
        assert listing.stderr is not None
        assert listing.stderr.read() == ""
    assert listing.returncode == 141


def on_terminal(artstore: Artstore, typed: bytes, *arguments: str, columns: int = 80) -> tuple[int, str]:
    """Exit code and screen of a command with a terminal for all three streams."""
    main, terminal = pty.openpty()
    variables = {**artstore.environment, "COLUMNS": str(columns), "TERM": "xterm"}
    program = [*artstore.program, *arguments]
    process = subprocess.Popen(
        program, cwd=artstore.folder, env=variables, stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    os.write(main, typed)
    screen = b""
    while select.select([main], [], [], TIMEOUT_S)[0]:
        try:
            read = os.read(main, 65536)
        except OSError:  # the other end is closed
            break
        screen += read
        if not read:
            break
    os.close(main)
    return process.wait(TIMEOUT_S), screen.decode().replace("\r\n", "\n")


def test_on_a_terminal_there_are_tables_bars_and_questions(artstore: Artstore, mark: str) -> None:
    (artstore.folder / ("long " * 20 + "name.txt")).write_text("x")
    code, screen = on_terminal(artstore, b"", "put", "long " * 20 + "name.txt", "--temporary", "--tag", mark)
    assert code == 0
    assert "━" in screen
    code, screen = on_terminal(artstore, b"", "ls", "--tag", mark)
    heading, row = screen.splitlines()
    assert heading.split() == ["ID", "SIZE", "CREATED", "NAME", "TAGS"]
    assert max(len(heading), len(row)) <= 80
    assert "…" in row
    file_id = row.split()[0]
    code, screen = on_terminal(artstore, b"n\n", "rm", file_id)
    assert code == 1
    assert "for ever? [y/N]" in screen
    code, _ = on_terminal(artstore, b"y\n", "rm", file_id)
    assert code == 0
    artstore.run("info", file_id, code=6)


def test_text_from_elsewhere_cannot_control_a_terminal() -> None:
    hostile = "a\x1b]0;title\x07\x9b2J\u202egnp.exe\n\r\t\u2028\U000e0041\udcff\x7f é𝒳🔥"
    assert printable(hostile) == ("a\\x1b]0;title\\x07\\x9b2J\\u202egnp.exe\\n\\r\\t\\u2028\\U000e0041\\xff\\x7f é𝒳🔥")
    assert not UNSAFE.search(to_json({hostile: [hostile]}))
    assert json.loads(to_json({hostile: [hostile]})) == {hostile: [hostile]}


@pytest.mark.parametrize(
    ("widths", "available", "fitted"),
    [([36, 20, 10], 70, [36, 20, 10]), ([36, 20, 10], 56, [36, 10, 10]), ([36, 20, 10], 20, [36, 8, 8])],
)
def test_only_elastic_columns_become_narrower(widths: list[int], available: int, fitted: list[int]) -> None:
    fit(widths, [False, True, True], available)
    assert widths == fitted


def test_sizes_and_durations() -> None:
    sizes = [parse_size("--min-size", text) for text in ("0", "512", "10KiB", "1.5M", "2g", "1 TB")]
    assert sizes == [0, 512, 10 << 10, 3 << 19, 2 << 30, 1 << 40]
    assert [size_text(size) for size in (0, 1023, 1536, 5 << 30)] == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]
    assert [parse_duration(text) for text in ("90", "90s", "30m", "12h", "7d")] == [90, 90, 1800, 43200, 604800]


def test_help_loads_nothing_that_it_does_not_need() -> None:
    """What `artstore --help` and completion load is what the user waits for."""
    heavy = (
        "httpx",
        "asyncio",
        "rich.console",
        "artstore_client",
        "pydantic",
        "artstore.local",
        "msgspec",
        "cryptography",
    )
    program = f"import sys; import artstore_cli.app; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": SOURCES}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_an_installed_command_needs_no_source_code(artstore: Artstore, tmp_path: Path) -> None:
    """The wheel, alone in a folder. Its dependencies are taken from .venv."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT / "cli", check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(site)
    (script,) = site.glob("*.dist-info/entry_points.txt")
    assert "artstore = artstore_cli.app:main" in script.read_text()
    assert {path.name for path in site.iterdir()} == {"artstore_cli", "artstore_client", script.parent.name}
    installed = artstore.in_new_interpreter().with_environment(PYTHONPATH=str(site))
    text = installed.run("--help").stdout
    assert "elements" in text
    assert "bench" not in text
    refused: dict[str, Any] = json.loads(installed.run("up", "--detach", "--json", code=1).stderr)
    assert "source code" in refused["error"]["message"]
    assert [one["id"] for one in installed.items("elements")][:2] == ["se-01", "se-02"]
    assert installed.run("--version").stdout.startswith("artstore ")
    (installed.folder / "x.txt").write_text("x")
    (stored,) = installed.items("put", "x.txt", "--temporary")
    assert installed.run("get", stored["file"]["file_id"], "-o", "-").stdout == "x"


def test_the_shell_completes_commands_options_and_values(artstore: Artstore) -> None:
    def completed(line: str, at: int) -> list[str]:
        asked = {"_ARTSTORE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(at)}
        return artstore.with_environment(**asked).run().stdout.split()

    assert completed("artstore s", 1) == ["search", "status", "sagas"]
    assert completed("artstore mode se-02 ", 3) == ["ro", "ar"]
    assert "--temporary" in completed("artstore put --t", 2)


def test_the_commands_for_developers_speak_json(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "artstore_cli", *arguments, "--json"]
        return subprocess.run(command, env={**os.environ, "PYTHONPATH": SOURCES}, capture_output=True, text=True)

    check, totals = map(json.loads, run("test", "ruff check").stdout.splitlines())
    assert (check["check"], check["part"], check["failed"]) == ("ruff check", "static", 0)
    assert totals == {"passed": 1, "failed": 0, "skipped": 0}
    unknown = run("test", "nothing")
    assert (unknown.returncode, json.loads(unknown.stderr)["error"]["exit_code"]) == (1, 1)
    assert json.loads(run("test", "static", "-k", "x").stderr)["error"]["code"] == "usage"
    nowhere = run("bench", "--output", str(tmp_path / "none" / "x"))
    assert "does not exist" in json.loads(nowhere.stderr)["error"]["message"]

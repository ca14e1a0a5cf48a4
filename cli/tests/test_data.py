"""Pure decisions of the launcher, and agreement of the files that describe the same system."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from artstore.local.ports import choose_ports, is_free
from artstore_cli.data_folder import DataFolder
from artstore_cli.errors import CommandError, disk_error
from artstore_cli.fleet import ELEMENTS, Site, fleet, merge_environment
from artstore_cli.up import require_free

ROOT = Path(__file__).resolve().parents[2]


def site(**changes: Any) -> Site:
    fields: dict[str, Any] = {"root": Path("/r"), "data": DataFolder(Path("/d")), "port_base": 9000}
    return Site(**{**fields, **changes})


@pytest.mark.parametrize(
    ("own", "outer", "expected"),
    [
        ({"PORT": "1"}, {"PORT": "2", "LOG_LEVEL": "DEBUG"}, {"PORT": "1", "LOG_LEVEL": "DEBUG"}),
        ({"DATABASE_URL_FILE": "f"}, {"DATABASE_URL": "u"}, {"DATABASE_URL_FILE": "f"}),
        ({"STORAGE_ROOT": "r"}, {"STORAGE_ROOT_FILE": "f"}, {"STORAGE_ROOT": "r"}),
    ],
)
def test_the_launchers_settings_win_over_the_users(
    own: Mapping[str, str], outer: Mapping[str, str], expected: Mapping[str, str]
) -> None:
    assert merge_environment(own, outer) == expected


def test_every_service_has_a_port_and_needs_only_what_comes_before_it() -> None:
    before = {"postgres", "valkey"}
    for service in fleet(site()):
        assert set(service.needs) <= before
        before.add(service.name)
    assert sorted(service.port_offset for service in fleet(site())) == [0, 10, 11, 12, 20, 30]


def test_the_third_element_goes_to_s3_when_there_is_one() -> None:
    local, remote = ({service.name: service for service in fleet(site(s3_port=port))} for port in (None, 8333))
    assert [local[element.id].settings["STORAGE_BACKEND"] for element in ELEMENTS] == ["local"] * 3
    assert [remote[element.id].settings["STORAGE_BACKEND"] for element in ELEMENTS] == ["local", "local", "s3"]
    assert remote["se-03"].settings["S3_ENDPOINT_URL"] == "http://127.0.0.1:8333"
    assert "seaweedfs" in remote["se-03"].needs


def test_a_taken_port_is_refused_by_name_and_number() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(CommandError, match=f"port {port} for admin is taken"):
            require_free({"admin": port})
    assert is_free(port)


def test_inner_ports_stay_the_same_while_they_are_free() -> None:
    first = choose_ports(["a", "b", "c"], {})
    assert len(set(first.values())) == 3
    assert choose_ports(["a", "b", "c"], first) == first
    with socket.socket() as other:
        other.bind(("127.0.0.1", first["a"]))
        other.listen()
        moved = choose_ports(["a", "b", "c"], first)
    assert moved["a"] != first["a"]
    assert (moved["b"], moved["c"]) == (first["b"], first["c"])


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EACCES, "cannot write to"),
        (errno.EROFS, "cannot write to"),
        (errno.EIO, "/d: "),
    ],
)
def test_a_disk_error_is_reported_in_one_line(number: int, words: str) -> None:
    text = str(disk_error(OSError(number, "because"), Path("/d")))
    assert text.startswith(words)
    assert "\n" not in text


def test_the_example_of_settings_is_what_compose_reads() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    taken = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", compose))
    example = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert example == taken
    assert len(re.findall(r"(?<!\$)\$\{", compose)) == len(re.findall(r"\$\{\w+:-", compose))


def test_a_compose_file_is_only_at_the_root() -> None:
    found = [path for path in ROOT.glob("*/*") if re.fullmatch(r"(docker-)?compose.*\.ya?ml", path.name)]
    assert not found


def test_locks_name_no_host_and_no_folder() -> None:
    for lock in (ROOT / "requirements").glob("*.lock"):
        lines = lock.read_text().splitlines()
        assert not [line for line in lines if "://" in line or "/" in line.split("#")[0].split("sha256")[0]]

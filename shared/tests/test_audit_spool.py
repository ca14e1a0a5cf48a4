"""A writer keeps events on its disk until PostgreSQL has them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from artstore.audit.check import check
from artstore.audit.event import Event, Signed, fingerprint, head_after, sign_event
from artstore.audit.spool import Spool

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def write(spool: Spool, count: int = 1, text: str = "x") -> list[Signed]:
    head, events = spool.head, []
    for _ in range(count):
        event = Event("test", text, "thing", metadata={"text": text})
        events.append(sign_event(event, service="test", chain="test", after=head, moment=NOW, key=spool.key))
        head = head_after(events[-1])
    spool.append(events)
    return events


def test_the_next_process_finds_what_the_last_one_left_and_goes_on_with_its_chain(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    left = write(first, 3)
    first.close()
    second = Spool(tmp_path)
    assert second.left == left
    more = write(second, 1)
    assert (more[0]["seq"], more[0]["prev"]) == (4, head_after(left[-1]).hash)


def test_after_everything_was_shipped_the_chain_still_goes_on(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    write(first, 3)
    first.empty()
    assert first.size_bytes == 0
    first.close()
    second = Spool(tmp_path)
    assert (second.left, second.head) == ([], first.head)


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, cut: int) -> None:
    first = Spool(tmp_path)
    kept = write(first, 2)
    write(first)
    first.close()
    path = tmp_path / "writer-0" / "events"
    path.write_bytes(path.read_bytes()[:-cut])
    second = Spool(tmp_path)
    assert second.left == kept
    assert write(second)[0]["seq"] == 3


def test_two_processes_in_one_folder_write_two_chains(tmp_path: Path) -> None:
    first, second = Spool(tmp_path), Spool(tmp_path)
    keys = {fingerprint(spool.key.public_key().public_bytes_raw()) for spool in (first, second)}
    assert len(keys) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["writer-0", "writer-1"]
    assert (tmp_path / "writer-0" / "key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["nul\x00", "\ud800 alone", "й" * 10_000, "line\nbreak", '"'])
def test_whatever_a_caller_calls_itself_can_be_signed_kept_and_checked(tmp_path: Path, text: str) -> None:
    spool = Spool(tmp_path)
    events = write(spool, 2, text)
    spool.close()
    public_key = spool.key.public_key().public_bytes_raw()
    events = [{**event, "chain": event["chain"]} for event in Spool(tmp_path).left]
    assert "\x00" not in str(events)
    found = check({"test": public_key}, events)
    assert [one.what for one in found] == ["wrong_key"]  # the chain of this test is not named after its key

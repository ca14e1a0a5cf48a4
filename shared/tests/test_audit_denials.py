"""Unauthenticated callers cause a bounded number of audit events; every denial of an account is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from artstore.audit.denial_aggregator import MAX_CALLERS, OTHERS, WINDOW_S, DenialAggregator
from artstore.audit.event import Event
from artstore.audit.writer import AuditWriter
from artstore.clock import Clock
from artstore.errors import Unavailable
from artstore.metrics import exposition, new_registry
from artstore.tasks import Tasks

DENIED = Event("access:denied", "-", "/api/files", "denied", {"address": "192.0.2.1"})


def counts(events: list[Event]) -> int:
    return sum(int(event.metadata["count"]) for event in events)


def test_one_address_costs_one_event_a_minute_and_every_denial_is_counted() -> None:
    aggregator, events = DenialAggregator(), []
    for second in range(600):
        for _ in range(100):
            immediate = aggregator.add("192.0.2.1", DENIED, float(second))
            events += [immediate] if immediate else []
        events += aggregator.due(float(second))
    events += aggregator.close()
    assert counts(events) == 60_000
    assert len(events) <= 600 / WINDOW_S + 2


def test_the_first_denial_is_recorded_immediately() -> None:
    first = DenialAggregator().add("192.0.2.1", DENIED, 0.0)
    assert first is not None
    assert first.metadata == {"address": "192.0.2.1", "count": 1}


def test_any_number_of_addresses_costs_a_bounded_number_of_events() -> None:
    aggregator, events = DenialAggregator(), []
    for number in range(100_000):
        immediate = aggregator.add(f"address-{number}", DENIED, 0.0)
        events += [immediate] if immediate else []
    events += aggregator.due(WINDOW_S)
    assert counts(events) == 100_000
    assert len(events) <= 2 * MAX_CALLERS
    assert [event.metadata["address"] for event in events][-1] == OTHERS


def test_an_address_that_has_stopped_is_forgotten() -> None:
    aggregator = DenialAggregator()
    aggregator.add("192.0.2.1", DENIED, 0.0)
    assert aggregator.due(WINDOW_S) == []
    assert aggregator.add("192.0.2.1", DENIED, WINDOW_S + 1) is not None


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[AuditWriter]:
    async with Tasks.open() as tasks:
        writer = AuditWriter("test", tmp_path, Clock(), tasks, new_registry())
        yield writer
        writer.close()


def lines(folder: Path) -> list[str]:
    return (folder / "writer-0" / "events").read_text().splitlines()


async def test_many_unauthenticated_denials_are_few_events_and_a_metric(tmp_path: Path) -> None:
    registry = new_registry()
    async with Tasks.open() as tasks:
        writer = AuditWriter("test", tmp_path, Clock(), tasks, registry)
        await asyncio.gather(*(writer.record_denial(DENIED, f"address-{number % 3}") for number in range(3000)))
        assert len(lines(tmp_path)) == 3
        await writer.finish()
        assert 3 < len(lines(tmp_path)) <= 6
        assert "audit_denials_aggregated_total 2997.0" in exposition(registry).decode()
        writer.close()


async def test_each_denial_of_an_account_is_an_event_of_its_own(writer: AuditWriter, tmp_path: Path) -> None:
    event = Event("access:denied", "reader", "/api/files", "denied", {})
    await asyncio.gather(*(writer.record_denial(event) for _ in range(500)))
    assert len(lines(tmp_path)) == 500


async def test_denials_of_accounts_are_counted_while_nothing_can_be_written(
    writer: AuditWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = Event("access:denied", "reader", "/api/files", "denied", {})
    monkeypatch.setattr("artstore.audit.writer.MAX_WAITING", 0)
    for _ in range(7):
        await writer.record_denial(event)
    with pytest.raises(Unavailable):
        await writer.record(event)
    monkeypatch.setattr("artstore.audit.writer.MAX_WAITING", 10)
    await writer.finish()
    (line,) = lines(tmp_path)
    assert '"count":7' in line

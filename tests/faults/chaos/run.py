"""One chaos run: a fleet, its weather, its clients; then the quiet, and what must be true in it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from support.fleet import Fleet, running_fleet
from support.layout import LARGE

from artstore.testing.network import Network

from .asking import Caller, Findings
from .changing import ask_after
from .client import Client
from .counting import make_counters
from .invariants import check
from .load import work
from .logged import logged_errors
from .operating import Operator
from .resources import held, largest, too_much
from .schedule import Strike, schedule
from .settling import Settled, settle
from .staleness import MEMORY_TTL_S
from .weather import Weather

CLIENTS = 5
SAGA_LEASE_S = 7
SETTLE_PATIENCE_S = 150.0
SETTINGS = {
    "SAGA_LEASE_S": str(SAGA_LEASE_S),
    "CACHE_MEMORY_TTL_S": str(MEMORY_TTL_S),
    "ELEMENT_CALL_TIMEOUT_S": "5",
    "ELEMENT_IDLE_TIMEOUT_S": "5",
    "PEER_TIMEOUT_S": "4",
    "DATABASE_COMMAND_TIMEOUT_S": "4",
    "AUDIT_CHECKPOINT_EVERY_S": "5",
    "LOG_LEVEL": "INFO",
}
"""Short patience, so that short strikes are felt; everything else as it is by default."""


@dataclass(slots=True)
class Report:
    """The actions and observations of one run."""

    seed: int
    length_s: float
    strikes: list[Strike]
    findings: Findings = field(default_factory=Findings)
    started_s: float = 0.0
    settled: Settled = field(default_factory=lambda: Settled(0.0, {}, {}))
    took_s: float = 0.0
    reached: Counter[str] = field(default_factory=Counter)
    largest: str = ""
    files: int = 0
    untold: int = 0

    def summary(self) -> str:
        struck = Counter(strike.kind.value for strike in self.strikes)
        lines = [
            f"seed {self.seed}: started in {self.started_s:.0f} s, {self.length_s:.0f} s of chaos, {self.settled}, "
            f"{self.took_s:.0f} s in all",
            f"faults: {len(self.strikes)} ("
            + ", ".join(f"{kind} {number}" for kind, number in sorted(struck.items()))
            + ")",
            f"died at a point: {', '.join(self.reached) or 'nobody'}",
            f"files: {self.files} acknowledged, {self.untold} uploads without an acknowledgement",
            f"held at the end, the most of any process: {self.largest}",
            "answers: " + ", ".join(f"{what}: {number}" for what, number in sorted(self.findings.counts.items())),
            f"findings: {len(self.findings.found)}",
            *(f"  {finding}" for finding in self.findings.found),
        ]
        return "\n".join(lines)


def run_chaos(seed: int, length_s: float, keep_logs: Path | None = None) -> Report:
    """Starts a fleet of its own, and ends it. `keep_logs`: where the logs go afterwards."""
    began_s = time.monotonic()
    report = Report(seed, length_s, schedule(seed, length_s, LARGE))
    with ExitStack() as opened:
        network = opened.enter_context(Network(seed))
        fleet = opened.enter_context(running_fleet(LARGE, SETTINGS, network=network))
        report.started_s = time.monotonic() - began_s
        try:
            asyncio.run(_run(fleet, network, report))
        finally:
            if keep_logs is not None:
                _copy_logs(fleet, keep_logs)
    report.took_s = time.monotonic() - began_s
    return report


async def _run(fleet: Fleet, network: Network, report: Report) -> None:
    weather, findings = Weather(fleet), report.findings
    async with AsyncExitStack() as opened:
        clients = [await _client(opened, fleet, weather, report, number) for number in range(CLIENTS)]
        counters = await make_counters(clients[0])
        stop = asyncio.Event()
        operator = Operator(
            _caller(opened, fleet, weather, report, fleet.credentials("admin"), "operator"), report.length_s
        )
        weather.began_s = time.monotonic()
        operating = asyncio.create_task(operator.run())
        working = [asyncio.create_task(work(client, counters, stop)) for client in clients]
        await weather.run(report.strikes)
        await asyncio.sleep(max(0.0, report.length_s - weather.now_s))
        stop.set()
        await asyncio.gather(operating, *working)
        report.reached = weather.reached
        network.heal()
        report.settled = await settle(fleet, SETTLE_PATIENCE_S)
        for what, why in report.settled.restless.items():
            findings.add(weather.now_s, f"never came to rest: {what} {why}")
        for client in clients:
            for queued in list(client.queued):
                await ask_after(client, queued)
        by_process = held(fleet)
        report.largest = largest(by_process)
        for problem in [*weather.dead(), *too_much(by_process), *logged_errors(fleet)]:
            findings.add(weather.now_s, problem)
        report.files = sum(len(client.files) for client in clients)
        report.untold = sum(len(client.untold) for client in clients)
        token = await asyncio.to_thread(fleet.token)
        await check(fleet, clients, counters, operator, token, findings, weather.now_s)


async def _client(opened: AsyncExitStack, fleet: Fleet, weather: Weather, report: Report, number: int) -> Client:
    account = await asyncio.to_thread(fleet.new_account, client_id=f"chaos-{number}")
    return Client(f"c{number}", _caller(opened, fleet, weather, report, account, str(number)))


def _caller(
    opened: AsyncExitStack, fleet: Fleet, weather: Weather, report: Report, account: dict[str, str], name: str
) -> Caller:
    caller = Caller(fleet, weather, report.findings, account, f"{report.seed}:{name}")
    opened.push_async_callback(caller.close)
    return caller


def _copy_logs(fleet: Fleet, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in fleet.folder.glob("*.log"):
        (folder / path.name).write_bytes(path.read_bytes())

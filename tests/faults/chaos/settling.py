"""The end of the weather: everything heals, and then must come to rest by itself."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
from support.fleet import Fleet
from support.layout import kind_of

RESTING_GAUGES = ("wal_open_intents", "element_unconfirmed_files", "element_unsettled_files", "element_owed_files")
"""Metrics of an element that are 0 when nothing is half-done."""
LOOK_EVERY_S = 0.5
UNFINISHED = {
    "open sagas": "SELECT count(*) FROM sagas WHERE due_at IS NOT NULL OR state IN ('begun', 'queued', 'compensating')",
    "pending rows": "SELECT count(*) FROM files WHERE state = 'pending'",
    "outbox": "SELECT count(*) FROM outbox",
}


@dataclass(slots=True)
class Settled:
    """`waited_s` until everything rested, `rested_s` until this did; `restless` is what never came to rest."""

    waited_s: float
    rested_s: dict[str, float]
    restless: dict[str, Any]

    def __str__(self) -> str:
        slowest = sorted(self.rested_s.items(), key=lambda one: -one[1])[:5]
        return (
            f"at rest after {self.waited_s:.1f} s ({', '.join(f'{what} {after_s:.1f}' for what, after_s in slowest)})"
        )


async def settle(fleet: Fleet, patience_s: float) -> Settled:
    began_s, rested_s = time.monotonic(), dict[str, float]()
    while True:
        restless = await _restless(fleet)
        waited_s = time.monotonic() - began_s
        if not restless or waited_s > patience_s:
            return Settled(waited_s, rested_s, restless)
        rested_s |= dict.fromkeys(restless, waited_s)
        await asyncio.sleep(LOOK_EVERY_S)


async def _restless(fleet: Fleet) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=5) as client:
        not_ready = {name: await _readiness(client, fleet.url(name)) for name in fleet.names}
        restless: dict[str, Any] = {name: why for name, why in not_ready.items() if why}
        if restless:
            return restless
        for name in fleet.names:
            gauges = gauges_of((await client.get(f"{fleet.url(name)}/metrics")).text)
            resting = RESTING_GAUGES if kind_of(name) == "se" else ()
            breakers = [gauge for gauge in gauges if gauge.startswith("circuit_breaker_state")]
            restless |= {f"{name} {gauge}": gauges[gauge] for gauge in (*resting, *breakers) if gauges[gauge]}
    for what, question in UNFINISHED.items():
        number = (await rows(fleet, question))[0][0]
        if number:
            restless[what] = number
    return restless


async def _readiness(client: httpx.AsyncClient, url: str) -> str:
    """Why it is not ready; empty when it is."""
    try:
        answer = await client.get(f"{url}/health/ready")
    except httpx.HTTPError as error:
        return type(error).__name__
    return "" if answer.status_code == 200 else answer.text


def gauges_of(metrics: str) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in metrics.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in lines}


async def rows(fleet: Fleet, question: str) -> list[Any]:
    connection = await asyncpg.connect(fleet.postgres.url(fleet.database).replace("+asyncpg", ""), timeout=10)
    try:
        return list(await connection.fetch(question))
    finally:
        await connection.close()

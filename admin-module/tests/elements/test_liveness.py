"""Elements that stop reporting become away and come back on their own. An outage of admin does not make them away."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from artstore.contracts.elements import SNAPSHOT_KEY, Snapshot

from .test_registry import announce

AWAY_AFTER_S = 3
GO_SILENT = "UPDATE storage_elements SET last_seen_at = now() - interval '10 minutes' WHERE element_id = 'se-01'"


async def published_status(admin: Any) -> str | None:
    raw = await admin.redis.get(SNAPSHOT_KEY)
    if raw is None:
        return None
    snapshot = msgspec.json.decode(raw, type=Snapshot)
    return {one.id: one.status for one in snapshot.elements}.get("se-01")


async def test_a_silent_element_is_away_until_it_announces_itself(own_admin: Any, eventually: Any) -> None:
    admin = await own_admin(ELEMENT_AWAY_AFTER_S=str(AWAY_AFTER_S))
    await announce(admin)

    async def away() -> bool:
        return await published_status(admin) == "away"

    async def back() -> bool:
        return await published_status(admin) == "online"

    async def shown(value: float) -> bool:
        page = (await admin.client.get("/metrics")).text
        return f'element_away{{storage_element_id="se-01"}} {value}' in page.splitlines()

    assert await eventually(away)
    assert await eventually(lambda: shown(1.0))
    assert (await announce(admin))["status"] == "online"
    assert await eventually(back)
    assert await eventually(lambda: shown(0.0))


async def test_after_a_start_of_admin_every_element_has_the_whole_time_again(own_admin: Any, eventually: Any) -> None:
    first = await own_admin()
    await announce(first)
    first.process.kill()
    first.process.wait()
    await first.sql(GO_SILENT)
    started_s = time.monotonic()
    admin = await own_admin(ELEMENT_AWAY_AFTER_S=str(AWAY_AFTER_S))

    async def away() -> bool:
        return await published_status(admin) == "away"

    assert await eventually(away)
    assert time.monotonic() - started_s >= AWAY_AFTER_S

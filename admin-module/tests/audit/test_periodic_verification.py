"""Admin verifies the audit log by itself, and all admins show the result."""

from __future__ import annotations

from typing import Any

import pytest

from app.audit.verified import WHOLE_EVERY_S, Verified

NOW = 1_800_000_000
FINDING = {"what": "changed", "chain": "admin", "seq": 3, "detail": ""}
VERIFIED = Verified(at=NOW - 9, whole_at=NOW - 99, checkpoint=5)


async def test_a_changed_row_is_found_without_a_call_and_shown_by_every_admin(
    log: Any, own_admin: Any, eventually: Any
) -> None:
    async def shown(admin: Any, name: str) -> float:
        page = (await admin.client.get("/metrics")).text
        [value] = [line.split()[1] for line in page.splitlines() if line.startswith(f"{name} ")]
        return float(value)

    async def verified_by(admin: Any) -> float:
        return await shown(admin, "audit_last_verification_timestamp_seconds")

    async def findings_of(admin: Any) -> float:
        return await shown(admin, "audit_verification_findings")

    often = await own_admin(AUDIT_VERIFY_EVERY_S="0.5")
    await eventually(lambda: verified_by(often))
    assert await findings_of(often) == 0
    stop(often)

    await log.admin.sql("ALTER TABLE audit_events DISABLE TRIGGER ALL")
    await log.grow(eventually)
    await log.admin.sql(
        """UPDATE audit_events SET user_id = 'nobody' WHERE chain = 'admin'
        AND seq = (SELECT max(seq) - 3 FROM audit_events WHERE chain = 'admin')"""
    )
    often = await own_admin(AUDIT_VERIFY_EVERY_S="0.5")
    assert await eventually(lambda: findings_of(often)) == 1
    stop(often)
    started_later = await own_admin()
    assert await eventually(lambda: findings_of(started_later)) == 1

    await log.admin.redis.set("artstore:audit:verified", b'{"type":"verification","at":1,"checkpoint":99999999}')
    await log.grow(eventually)
    forged = await own_admin(AUDIT_VERIFY_EVERY_S="0.5")
    assert await eventually(lambda: findings_of(forged)) == 1


def stop(admin: Any) -> None:
    admin.process.terminate()
    admin.process.wait(120)


@pytest.mark.parametrize(
    ("verified", "start"),
    [
        pytest.param(Verified(), None, id="before the first"),
        pytest.param(VERIFIED, 5, id="from the last checkpoint"),
        pytest.param(Verified(at=NOW, whole_at=NOW - WHOLE_EVERY_S, checkpoint=5), None, id="whole from time to time"),
        pytest.param(Verified(at=NOW, whole_at=NOW + 60, checkpoint=5), None, id="after a wrong clock"),
    ],
)
def test_where_the_next_verification_begins(verified: Verified, start: int | None) -> None:
    assert verified.next_start(NOW) == start


@pytest.mark.parametrize(
    ("start", "last", "findings", "after"),
    [
        pytest.param(None, 8, 0, Verified(NOW, NOW, 8), id="whole"),
        pytest.param(None, None, 0, Verified(NOW, NOW, 0), id="whole, no checkpoint yet"),
        pytest.param(5, 8, 0, Verified(NOW, NOW - 99, 8), id="goes on"),
        pytest.param(7, 8, 0, VERIFIED, id="leaves a stretch out"),
        pytest.param(5, 8, 1, Verified(NOW, NOW - 99, 5, 1), id="findings keep the start"),
        pytest.param(3, 8, 1, Verified(NOW, NOW - 99, 3, 1), id="findings from before the start"),
        pytest.param(None, 8, 2, Verified(NOW, 0, 0, 2), id="findings of a whole one are looked for again"),
    ],
)
def test_the_state_after_a_verification(start: int | None, last: int | None, findings: int, after: Verified) -> None:
    verdict = {"from_checkpoint": start, "last_checkpoint": last, "findings": [FINDING] * findings}
    assert VERIFIED.after(verdict, NOW) == after

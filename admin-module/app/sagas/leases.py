"""Leases start anew when nobody could renew them: after an outage of all admins or of PostgreSQL, or a step of its clock."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.logs import get_logger

log = get_logger("admin.sagas")

MARK_EVERY = 0.1
"""Of a lease: how often the presence of an admin is marked."""
OUTAGE = 0.25
"""Of a lease: a mark older than this shows an outage. Longer than MARK_EVERY by what a slow round takes."""

_MARKED = text("""SELECT extract(epoch FROM clock_timestamp() - attended_at)::float8 AS age_s FROM registry""")
_MARK = text(
    """WITH before AS (SELECT attended_at FROM registry FOR UPDATE)
    UPDATE registry SET attended_at = clock_timestamp() FROM before
    RETURNING extract(epoch FROM registry.attended_at - before.attended_at)::float8 AS age_s"""
)
_EXTEND = text(
    """WITH held AS (
        SELECT saga_id FROM sagas WHERE state = 'begun' AND due_at < now() + make_interval(secs => :lease_s)
        ORDER BY saga_id FOR UPDATE)
    UPDATE sagas SET due_at = now() + make_interval(secs => :lease_s) FROM held WHERE sagas.saga_id = held.saga_id"""
)


async def attend(conn: AsyncConnection, lease_s: float) -> None:
    """Marks that an admin is here, and extends what nobody could renew. In the transaction that claims what is due, so that
    nothing expires before. Takes the registry's lock, then those of sagas."""
    age_s = (await conn.execute(_MARKED)).scalar_one()
    if age_s is not None and 0 <= age_s < lease_s * MARK_EVERY:
        return
    age_s = (await conn.execute(_MARK)).scalar_one()
    if age_s is not None and 0 <= age_s < lease_s * OUTAGE:
        return
    extended = (await conn.execute(_EXTEND, {"lease_s": lease_s})).rowcount
    if extended:
        log.warning("leases of running uploads start anew after an outage", uploads=extended, away_s=age_s)
